"""The ladder: two records compared rung by rung, and the first rung that fails is the finding.

Nothing is trained here. What a bound needs beyond the two records is the evidence that a probe
makes; without it bits decide, or a given tolerance, or a rung abstains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.parity import distance
from pipeline.parity.compared import (
    Compared,
    drew_own_starts,
    find_broken,
    list_other_settings,
    relative,
)
from pipeline.parity.data_rung import judge_data
from pipeline.parity.evaluation import judge_evaluation
from pipeline.parity.evidence import METHOD_NAME, Evidence
from pipeline.parity.growth import Growth, growth
from pipeline.parity.judged import Judged, describe_tolerance
from pipeline.parity.notes import list_notes, tell_speed
from pipeline.parity.rungs import (
    Judge,
    judge_forward,
    judge_gradients,
    judge_init,
    judge_loss,
    judge_trajectory,
    judge_update,
)
from pipeline.parity.structure import judge_structure
from pipeline.parity.tell import place_of
from pipeline.parity.tested import run_tests
from pipeline.parity.verdict import INFERENCE_RUNGS, RUNGS, Accepted, Finding, Ladder, Rung
from pipeline.record.record import RunRecord

_WAYS: dict[str, Judge] = {
    "data": judge_data,
    "init": judge_init,
    "forward": judge_forward,
    "loss": judge_loss,
    "gradients": judge_gradients,
    "update": judge_update,
    "trajectory": judge_trajectory,
    "evaluation": judge_evaluation,
}
assert tuple(_WAYS) == RUNGS


def judge(
    a: RunRecord,
    b: RunRecord,
    *,
    evidence: Evidence | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    accept: Mapping[str, str] | None = None,
    precision: str = "fail",
    coarse: Mapping[str, Mapping[str, str]] | None = None,
    hint: str = "",
) -> Ladder:
    """Compare two records rung by rung.

    Parameters
    ----------
    evidence
        What a probe measured about this pair.
    rtol, atol
        A tolerance in NumPy's meaning, ``|a − b| <= atol + rtol·|b|`` for every element, that
        replaces the derived bounds; one that is None counts as 0.
    accept
        By name of a rung or quantity, why a difference there is known and no FAIL.
    precision
        ``fail`` or ``note``: what a side is that computes in less than its precision.
    coarse
        By side, the documented formulas of its framework that are coarse.
    hint
        How to get evidence, for those who have none.
    """
    pair = Compared(
        a=a, b=b, evidence=evidence,
        tolerance=None if rtol is None and atol is None else (rtol or 0.0, atol or 0.0),
        accept=dict(accept or {}), precision=precision, coarse=coarse or {}, hint=hint,
    )  # fmt: skip
    broken = find_broken(pair)
    if broken:
        rest = [Rung(name=name, verdict="ABSTAIN", why="not reached") for name in RUNGS[1:]]
        lacks_float64 = "pair" in a.about and "float64" in broken
        verdict = "ABSTAIN" if lacks_float64 else "ERROR"  # code that was not written for it
        return _put_together(pair, [Judged(rung=Rung(name="data", verdict=verdict, why=broken)),
                                    *(Judged(rung=rung) for rung in rest)])  # fmt: skip
    if drew_own_starts(pair):
        why = "each framework drew its own start; over seeds, parity.margin compares scores"
        rest = [Rung(name=name, verdict="ABSTAIN", why=why) for name in RUNGS[1:]]
        return _put_together(pair, [judge_data(pair), *(Judged(rung=rung) for rung in rest)])
    judged = [way(pair) for way in _WAYS.values()]
    front = judge_structure(pair, forward=judged[RUNGS.index("forward")].rung.verdict)
    if front and front[0].unmapped:  # what is compared are models that hold other values
        why = "not every parameter has a partner"
        judged = [
            each if each.rung.name in ("data", "init") else
            Judged(rung=Rung(name=each.rung.name, verdict="ABSTAIN", why=why))
            for each in judged
        ]  # fmt: skip
    if front and not a.about["pair"].get("trains", True):
        judged = [each for each in judged if each.rung.name in INFERENCE_RUNGS]
    judged = [*front, *judged]
    judged = [_with_agreed(each, judged[:i]) for i, each in enumerate(judged)]
    return _put_together(pair, _abstain_if_other(pair, judged), distances=measure_distances(pair))


def _with_agreed(judged: Judged, before: Sequence[Judged]) -> Judged:
    """Say in a rung's findings which rungs agreed until then."""
    names = [each.rung.name for each in before if each.rung.verdict == "PASS"]
    findings = tuple(
        dataclasses.replace(f, agreed=", ".join([*names, f.agreed] if f.agreed else names))
        for f in judged.findings
    )
    return dataclasses.replace(judged, findings=findings)


def _abstain_if_other(pair: Compared, judged: list[Judged]) -> list[Judged]:
    """Turn verdicts into abstentions where the two are no pair, because other things were asked."""
    keys = list_other_settings(pair)
    if not keys:
        return judged
    why = f"the configs differ in {', '.join(keys)}"
    first = next((f for each in judged for f in each.findings), None)
    notes = [f"no pair: {why}"]
    notes += [f"they differ in {place_of(first)}, as other settings may"] if first else []
    turned = [
        dataclasses.replace(
            each,
            rung=dataclasses.replace(each.rung, verdict="ABSTAIN", kind="", by="", why=why)
            if each.rung.verdict in ("PASS", "FAIL")
            else each.rung,
            findings=(),
            suspects=(),
        )
        for each in judged
    ]
    return [dataclasses.replace(turned[0], notes=tuple(notes)), *turned[1:]]


def _put_together(
    pair: Compared, judged: Sequence[Judged], *, distances: Mapping[str, np.ndarray] | None = None
) -> Ladder:
    """Return the ladder of some judged rungs."""
    findings: dict[str, Finding] = {}
    for each in judged:
        for finding in each.findings:
            findings.setdefault(finding.kind, finding)
    accepted = {
        name: tuple(each.rung.name for each in judged if name in each.accepted)
        for name in pair.accept
    }
    notes = [note for each in judged for note in each.notes]
    unmatched = [name for name, rungs in accepted.items() if not rungs]
    notes += [f"parity.accept={name}: nothing of that name differs" for name in unmatched]
    about = {} if pair.evidence is None else pair.evidence.about
    failed = any(each.rung.verdict == "FAIL" for each in judged)
    passed = all(each.rung.verdict == "PASS" for each in judged)
    return Ladder(
        a=pair.label("a"),
        b=pair.label("b"),
        rungs=tuple(each.rung for each in judged),
        findings=tuple(findings.values()),
        accepted=tuple(
            Accepted(name=name, reason=pair.accept[name], rungs=rungs)
            for name, rungs in accepted.items() if rungs
        ),
        growth=fit_growth(pair, distances or {}, failed=failed),
        distances=distances or {},
        ratios=measure_ratios(pair) if distances else {},
        errors={} if pair.evidence is None else {
            side: pair.evidence.arrays[f"error/{side}"]
            for side in "ab" if f"error/{side}" in pair.evidence.arrays
        },
        reference=str(about.get("reference", "")),
        notes=tuple(dict.fromkeys([*list_notes(pair), *notes])),
        suspects=tuple(suspect for each in judged for suspect in each.suspects),
        facts={key: about[key] for key in ("gradcheck", "prove", "probe", "terms") if key in about}
        | {"method": METHOD_NAME}
        | ({"speed": speed} if (speed := tell_speed(pair) if passed else "") else {})
        | ({"given": describe_tolerance(pair)} if pair.tolerance is not None else {}),
    )  # fmt: skip


def measure_distances(pair: Compared) -> dict[str, np.ndarray]:
    """Return the curves over the steps, relative to the norm of all parameters."""
    quantities = pair.shared("parameter")
    if not quantities:
        return {}
    n = pair.steps
    rows = [distance.rows(pair.left[q][:n], pair.right[q][:n]) for q in quantities]
    whole = np.maximum(_together(r.size for r in rows), np.finfo(float).tiny)
    one, other = pair.a.named("param"), pair.b.named("param")
    ends = [distance.rows(one[q.name][:1], other[q.name][:1]) for q in quantities]
    start = relative(float(_together(e.apart for e in ends)[0]),
                     float(_together(e.size for e in ends)[0]))  # fmt: skip
    curves = {"apart": np.concatenate([[start], _together(r.apart for r in rows) / whole])}
    evidence = pair.evidence
    if evidence is None or not all(evidence.sources(q) for q in quantities):
        return curves
    for name, parts in (("forced", ("free",)), ("own", ("own_a", "own_b"))):
        largest = np.zeros(n)
        for source in evidence.sources(quantities[0]):
            measured = [evidence.measured(q, source) for q in quantities]
            for part in parts:
                norms = [getattr(m, part)[:n, 0] for m in measured]
                if all(len(values) == n for values in norms):
                    largest = np.maximum(largest, _together(norms) / whole)
        curves[name] = np.concatenate([[0.0], largest])
    return curves


def measure_ratios(pair: Compared) -> dict[str, np.ndarray]:
    """Return by tensor the largest distance over its bound at each step; see `Ladder.ratios`."""
    ratios: dict[str, np.ndarray] = {}
    if pair.evidence is None or pair.tolerance is not None:
        return ratios
    steps = np.arange(1, pair.steps + 1)
    for quantity in pair.shared("loss", "gradient", "slot", "parameter"):
        for tested in [] if pair.unusable(quantity) else run_tests(pair, quantity, steps=steps):
            if tested.test != "replay":  # of which the verdict takes no distance either
                before = ratios.get(quantity.label, np.zeros(pair.steps))
                ratios[quantity.label] = np.maximum(before, tested.ratios()[: pair.steps])
    return ratios


def _together(norms) -> np.ndarray:
    """Return the norm of several tensors together, step by step."""
    whole: np.ndarray = np.sqrt(np.sum([np.square(each) for each in norms], axis=0))
    return whole


def fit_growth(
    pair: Compared, distances: Mapping[str, np.ndarray], *, failed: bool
) -> Growth | None:
    """Return how the distance of the two runs grew; in a FAIL no fit says that it is rounding."""
    apart = distances.get("apart", np.empty(0))
    if len(apart) < 2:
        return None
    return growth(apart[1:], _events(pair), rounding=not failed)


def _events(pair: Compared) -> dict[int, list[str]]:
    """Return what is known to have happened at a step."""
    events: dict[int, list[str]] = {}
    lr, norm = pair.a.arrays.get("lr"), pair.a.arrays.get("grad_norm")
    clip = pair.a.config["optimizer"].get("clip_norm")
    epoch = pair.a.about.get("updates_per_epoch")
    for k in range(2, pair.steps + 1):
        texts = []
        if lr is not None and lr[k - 1] != lr[k - 2]:
            texts.append(f"the rate goes from {lr[k - 2]:.3g} to {lr[k - 1]:.3g}")
        if clip is not None and norm is not None and norm[k - 1] > clip:
            texts.append("the gradient is clipped")
        if epoch and epoch > 1 and (k - 1) % epoch == 0:
            texts.append("an epoch begins")
        if texts:
            events[k] = texts
    return events
