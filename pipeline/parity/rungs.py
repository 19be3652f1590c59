"""The rungs of the ladder, each a pure function of two records and what was measured of them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from pipeline.parity import distance
from pipeline.parity.by_evidence import find_excess_before, judge_by_evidence
from pipeline.parity.by_records import (
    abstain_or_fail,
    find_other_rates,
    judge_by_tolerance,
    judge_other_rates,
)
from pipeline.parity.compared import Compared, are_close, are_same_bits, relative
from pipeline.parity.judged import Judged, accept_or_fail, describe_tolerance, with_accepted
from pipeline.parity.places import describe_place, find_ratio
from pipeline.parity.quantity import PHASES, Quantity, list_some
from pipeline.parity.verdict import Finding, Rung
from pipeline.record.record import RunRecord

Judge = Callable[[Compared], Judged]


def judge_init(pair: Compared) -> Judged:
    """Compare every parameter at the start: bits, or one ulp, one conversion of a decimal."""
    one, other = pair.a.named("first"), pair.b.named("first")
    if not one:
        return Judged(rung=Rung(name="init", verdict="ABSTAIN", why="no parameters were recorded"))
    rows = {name: distance.rows(one[name][None], other[name][None]) for name in one}
    notes = tuple(
        f"{name}: not finite on both sides at the same place, step 0"
        for name, row in rows.items() if row.nonfinite[0]
    )  # fmt: skip
    far = {name: float(row.ulp[0]) for name, row in rows.items() if row.differs[0]}
    if not far:
        why = "every parameter, every bit"
        if "pair" in pair.a.about:
            why += f"; both start from {pair.a.config['model']['init']}'s own draw"
        rung = Rung(name="init", verdict="PASS", by="bits", why=why)
        return Judged(rung=rung, notes=notes)
    tensor = max(far, key=lambda name: far[name])
    measured = rows[tensor]
    if pair.tolerance is not None:
        close = {n: are_close(one[n], other[n], pair.tolerance) for n in far}
        agree, by, source = all(close.values()), "tolerance", describe_tolerance(pair)
        tensors = {n: 0.0 if ok else 2.0 for n, ok in close.items()}
    else:
        agree, by, tensors = far[tensor] <= 1, "rounding", far
        source = "1 ulp: one conversion of a decimal number"
    ulps = f", at most {far[tensor]:.6g} ulp" if np.isfinite(far[tensor]) else ""
    rung = Rung(
        name="init", verdict="PASS" if agree else "FAIL", kind="" if agree else "start",
        by=by if agree else "", tensor=tensor, step=0, tensors=tensors, source=source,
        distance=relative(measured.apart[0], measured.size[0]),
        why=f"{len(far)} of {len(one)} parameters differ{ulps}",
    )  # fmt: skip
    if agree:
        return Judged(rung=rung, notes=notes)
    place = describe_place(one[tensor], other[tensor], tolerance=pair.tolerance)
    finding = Finding(
        kind="start", rung="init", phase="start", step=0, tensor=tensor, **place,
        ratio=find_ratio(one[tensor], other[tensor]),
    )  # fmt: skip
    return accept_or_fail(pair, Judged(rung=rung, findings=(finding,), notes=notes), {"start"})


def judge_forward(pair: Compared) -> Judged:
    """Compare every activation of the first batch, in order, and the output."""
    one, other = pair.a.named("layer"), pair.b.named("layer")
    names = [name for name in one if name in other]
    if not names:
        return Judged(
            rung=Rung(name="forward", verdict="ABSTAIN", why="no activations were recorded")
        )
    lonely = sorted(set(one) ^ set(other))
    notes = (f"activations of one side only: {', '.join(lonely)}",) if lonely else ()
    for name in names:
        kinds = [f"{side[name].dtype}{side[name].shape}" for side in (one, other)]
        if kinds[0] != kinds[1]:
            why = f"{name} is {kinds[0]} and {kinds[1]}"
            rung = Rung(
                name="forward", verdict="FAIL", kind="meaning", tensor=name, step=1, why=why
            )
            finding = Finding(
                kind="meaning", rung="forward", phase="forward", step=1, tensor=name, detail=why
            )
            return accept_or_fail(pair, Judged(rung=rung, findings=(finding,), notes=notes), set())
    rows = {Quantity("activation", n): (one[n][None], other[n][None]) for n in names}
    judged = judge_quantities(pair, "forward", rows, first=1)
    return dataclasses.replace(judged, notes=(*notes, *judged.notes))


def judge_loss(pair: Compared) -> Judged:
    """Compare the loss of step 1."""
    return judge_quantities(pair, "loss", _rows(pair, "loss", stop=1), first=1)


def judge_gradients(pair: Compared) -> Judged:
    """Compare every gradient of step 1, before clipping and decay."""
    lacking = [_lacking_at_first(record) for record in (pair.a, pair.b)]
    notes: tuple[str, ...] = ()
    accepted: list[Judged] = []
    if lacking[0] == lacking[1] and lacking[0]:
        notes = (f"no gradient on either side: {', '.join(lacking[0])}",)
    rows = _rows(pair, "gradient", stop=1)
    for name in sorted({*lacking[0]} ^ {*lacking[1]}):
        side = pair.label("a" if name in lacking[0] else "b")
        why = f"{name} has no gradient in {side}: detached, frozen or not used"
        finding = Finding(
            kind="meaning", rung="gradients", phase="gradients", step=1, tensor=name, detail=why
        )
        rung = Rung(name="gradients", verdict="FAIL", kind="meaning", tensor=name, step=1, why=why,
                    tensors={name: float("inf")})  # fmt: skip
        lack = Judged(rung=rung, findings=(finding,))
        lack = accept_or_fail(pair, lack, {name, f"gradient/{name}", "gradient"})
        if lack.rung.verdict == "FAIL":
            return lack
        accepted.append(lack)
    if not rows:
        why = "no gradients were recorded of both (record.trace=full; train.loop=fit has none)"
        return Judged(rung=Rung(name="gradients", verdict="ABSTAIN", why=why))
    judged = with_accepted(judge_quantities(pair, "gradients", rows, first=1), accepted)
    judged = dataclasses.replace(judged, notes=(*notes, *judged.notes))
    return abstain_if_lonely(pair, judged, "gradient")


def _lacking_at_first(record: RunRecord) -> list[str]:
    """Return the parameters without a gradient at step 1; those of later steps are measured."""
    since = record.about.get("lacking_since", {})
    return [n for n in record.about.get("without_gradient", []) if since.get(n, 1) == 1]


def judge_update(pair: Compared) -> Judged:
    """Compare rate, optimizer state and parameters after step 1, from equal gradients."""
    rows = _rows(pair, "rate", "slot", "parameter", stop=1)
    if not pair.shared("parameter"):
        return judge_checksums(pair, "update")
    judged = judge_quantities(pair, "update", rows, first=1)
    return abstain_if_lonely(pair, judged, "rate", "slot", "parameter")


def judge_trajectory(pair: Compared) -> Judged:
    """Compare all of that at every later step; the first step that differs, and in it the cause."""
    if not pair.shared("parameter"):
        return judge_checksums(pair, "trajectory")
    if pair.steps == 1:
        why = "there is no step after the first"
        judged = Judged(rung=Rung(name="trajectory", verdict="PASS", by="bits", why=why))
    else:
        rows = _rows(pair, *PHASES, start=1, stop=pair.steps)
        judged = judge_quantities(pair, "trajectory", rows, first=2)
        if judged.rung.verdict == "PASS":
            judged = _with_free_steps(pair, judged)
    return abstain_if_lonely(pair, judged, *PHASES)


def _with_free_steps(pair: Compared, judged: Judged) -> Judged:
    """Judge two updates in a row from one state, each with its own gradient and its own slots.

    What is wrong in a small element of a gradient or slot is small beside its tensor, and does not
    reach an update that is given equal ones; a rule that divides by a root makes a step of it.
    """
    steps = [] if pair.evidence is None else pair.evidence.about.get("free", [])
    quantities = [Quantity("free", q.name) for q in pair.shared("parameter")]
    if not steps or pair.tolerance is not None or any(map(pair.unusable, quantities)):
        return judged
    zeros, ones = np.zeros((len(steps), 1)), np.ones((len(steps), 1))
    rows = dict.fromkeys(quantities, (zeros, ones))
    free = judge_quantities(pair, "trajectory", rows, first=1, steps=np.asarray(steps))
    if free.rung.verdict == "FAIL":
        return free
    notes = (*judged.notes, *free.notes)
    return with_accepted(dataclasses.replace(judged, notes=notes), [free] if free.accepted else [])


def _rows(
    pair: Compared, *kinds: str, start: int = 0, stop: int
) -> dict[Quantity, tuple[np.ndarray, np.ndarray]]:
    """Return both runs' rows from `start` to `stop` of each shared quantity of some kinds."""
    part = slice(start, stop)
    return {q: (pair.left[q][part], pair.right[q][part]) for q in pair.shared(*kinds)}


def abstain_if_lonely(pair: Compared, judged: Judged, *kinds: str) -> Judged:
    """Abstain instead of passing where something was recorded of one side only."""
    lonely = pair.of_one_side(*kinds)
    if judged.rung.verdict != "PASS" or not lonely:
        return judged
    names = list_some(lonely) if len(lonely) > 1 else lonely[0].key
    why = f"recorded of one side only: {names}"
    rung = dataclasses.replace(judged.rung, verdict="ABSTAIN", by="", why=why)
    return dataclasses.replace(judged, rung=rung)


def judge_quantities(
    pair: Compared,
    name: str,
    rows: Mapping[Quantity, tuple[np.ndarray, np.ndarray]],
    *,
    first: int,
    steps: np.ndarray | None = None,
) -> Judged:
    """Judge some quantities of a rung: by a tolerance, by bits, or by what was measured.

    Parameters
    ----------
    rows
        Of each quantity the recorded rows of both sides; `first` is the step of their first row.
    steps
        The steps of measured rows, where they are not one a step from 1 on.
    """
    if pair.tolerance is not None:
        return judge_by_tolerance(pair, name, rows, first=first)
    first_other = ((q, find_other_rates(q, sides)) for q, sides in rows.items())
    rates = {q: int(at[0]) for q, at in first_other if at is not None}
    accepted: list[Judged] = []
    for rate, row in sorted(rates.items(), key=lambda item: (item[1], item[0].name != "lr")):
        step = first + row
        if find_excess_before(pair, name, rows, first=first, step=step, steps=steps) is not None:
            break
        unequal = judge_other_rates(pair, name, rate, rows[rate], first=first, row=row)
        if unequal.rung.verdict == "FAIL":
            return unequal
        accepted.append(unequal)
    unjudged, same = [], True
    measured: list[Quantity] = []
    for quantity, (one, other) in rows.items():
        if quantity.kind == "rate":
            continue
        bits = are_same_bits(one, other)
        same &= bits
        why = pair.unusable(quantity)
        if not why:
            measured.append(quantity)
        elif not bits:
            unjudged.append((quantity, one, other, why))
    rest = judge_by_evidence(
        pair, name, measured, rows=rows, first=first, steps=steps, same_bits=same
    )
    if unjudged and rest.rung.verdict != "FAIL":
        rest = abstain_or_fail(pair, name, unjudged, first=first)
    return with_accepted(rest, accepted)


def judge_checksums(pair: Compared, name: str) -> Judged:
    """Judge a trajectory whose parameters were not kept by their checksums."""
    if name == "update":
        why = "the first update was not kept (record.trace)"
        return Judged(rung=Rung(name=name, verdict="ABSTAIN", why=why))
    one, other = _checksums(pair, "a"), _checksums(pair, "b")
    if not one or set(one) != set(other) or len(one["step"]) != len(other["step"]):
        why = "neither parameters nor checksums were kept"
        return Judged(rung=Rung(name=name, verdict="ABSTAIN", why=why))
    bad = {n: one[n] != other[n] for n in one}
    if not any(differ.any() for differ in bad.values()):
        why = f"the same checksums at {len(one['step'])} steps"
        return Judged(rung=Rung(name=name, verdict="PASS", by="bits", source="CRC-32", why=why))
    steps = {n: int(one["step"][np.argmax(d)]) for n, d in bad.items() if d.any()}
    tensor = min(steps, key=lambda n: steps[n])
    why = f"other checksums from step {steps[tensor]} on; record.trace=full can measure"
    rung = Rung(name=name, verdict="ABSTAIN", tensor=tensor, step=steps[tensor], why=why)
    return Judged(rung=rung)


def _checksums(pair: Compared, side: str) -> dict[str, np.ndarray]:
    """Return a run's checksums; of one that kept its parameters, those at the other's steps."""
    record, other = (pair.a, pair.b) if side == "a" else (pair.b, pair.a)
    parameters, steps = record.named("param"), other.named("check").get("step")
    if not parameters or steps is None or steps.max(initial=0) > pair.steps:
        return record.named("check")
    sums = {
        name: np.array([zlib.crc32(np.ascontiguousarray(rows[k]).data) for k in steps])
        for name, rows in parameters.items()
    }
    return {"step": steps} | sums
