"""The rung ``data``: the same samples, splits and batches, as each backend cut them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.parity.compared import Compared
from pipeline.parity.judged import Judged, accept_or_fail, with_accepted
from pipeline.parity.verdict import Finding, Rung


def judge_data(pair: Compared) -> Judged:
    """Compare the digests of all samples, then each batch that both took."""
    if pair.a.about["data"]["digest"] != pair.b.about["data"]["digest"]:
        return _fail(pair, "samples", None, "other samples or splits", "data")
    one, other = pair.a.named("order"), pair.b.named("order")
    if "samples" not in one or "samples" not in other:
        return _abstain("the order was not recorded")
    if not len(one["samples"]) or not len(other["samples"]):
        return _abstain(
            f"the order of {len(one['samples'])} and {len(other['samples'])} batches was recorded"
        )
    if len(one["samples"]) != len(one["sequence"]) or len(other["samples"]) != len(
        other["sequence"]
    ):
        return _abstain(
            f"the order of {len(one['sequence'])} and {len(other['sequence'])} batches was recorded"
        )
    return _compare_batches(pair, one, other)


def _compare_batches(
    pair: Compared, one: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> Judged:
    """Compare the batches of both runs by their fingerprints: samples, order and splits."""
    steps = [_steps(pair, side, order) for side, order in (("a", one), ("b", other))]
    inside = [step <= pair.steps for step in steps]
    one, other = (
        {k: v if k.endswith("_rows") else v[part] for k, v in order.items()}
        for order, part in zip((one, other), inside, strict=True)
    )
    step_a, step_b = (step[part] for step, part in zip(steps, inside, strict=True))
    n = min(len(step_a), len(step_b))
    bad = one["samples"][:n] != other["samples"][:n]
    reordered = (one["sequence"][:n] != other["sequence"][:n]) & ~bad
    accepted = []
    if reordered.any() and "order" in pair.accept:  # only the order: all else is still compared
        batch = int(np.argmax(reordered))
        accepted.append(_other_batch(pair, one, other, batch, int(step_a[batch])))
    else:
        bad |= reordered
    cut = step_a[:n] != step_b[:n]
    if "epoch" in one and "epoch" in other:
        cut |= one["epoch"][:n] != other["epoch"][:n]
    if cut.any() and int(np.argmax(cut)) <= int(np.argmax(bad | cut)):
        return _other_cuts(pair, one, other, int(np.argmax(cut)), int(step_a[np.argmax(cut)]))
    if bad.any():
        batch = int(np.argmax(bad))
        return _other_batch(pair, one, other, batch, int(step_a[batch]))
    if len(step_a) != len(step_b):
        if "epoch" in one and "epoch" in other:
            longer = step_a if len(step_a) > len(step_b) else step_b
            return _other_cuts(pair, one, other, n, int(longer[n]))
        return _abstain(f"the order of {len(step_a)} and {len(step_b)} batches was recorded")
    dropped = _find_dropped(pair)
    if dropped is not None:
        return _fail(pair, "batches", dropped[0], dropped[1], "batches")
    ended = explain_lengths(pair)
    if ended.startswith("!"):
        return _fail(pair, "steps", pair.steps, ended[1:], "steps")
    why = "same samples and splits" if accepted else "same samples, splits and order"
    notes = (ended,) if ended else ()
    judged = Judged(rung=Rung(name="data", verdict="PASS", by="bits", why=why), notes=notes)
    return with_accepted(judged, accepted)


def _steps(pair: Compared, side: str, order: dict[str, np.ndarray]) -> np.ndarray:
    """Return the update of each batch; in records of before it follows from the counts."""
    if "step" in order:
        return order["step"].astype(np.int64)
    record = pair.a if side == "a" else pair.b
    group = int(record.config["optimizer"]["accumulate"])
    updates = int(record.about.get("updates_per_epoch", 0)) or record.steps
    number = np.arange(len(order["samples"]))
    count = max(1, len(number) * updates // record.steps)  # an epoch's last update may have fewer
    return number // count * updates + number % count // group + 1


def _other_cuts(
    pair: Compared, one: dict[str, np.ndarray], other: dict[str, np.ndarray], batch: int, step: int
) -> Judged:
    """Say which side has a batch that the other one dropped."""
    why = f"the batches of step {step} are cut otherwise"
    if "epoch" in one and "epoch" in other:
        epoch = int(min(o["epoch"][batch] for o in (one, other) if batch < len(o["epoch"])))
        counts = [int((order["epoch"] == epoch).sum()) for order in (one, other)]
        if counts[0] != counts[1]:
            short = "b" if counts[0] > counts[1] else "a"
            longer = one if short == "b" else other
            by_side = dict(zip("ab", counts, strict=True))
            why = _tell_dropped(pair, epoch, by_side, short, longer, batch, step)
    return _fail(pair, "batches", step, why, "batches")


def _other_batch(
    pair: Compared, one: dict[str, np.ndarray], other: dict[str, np.ndarray], batch: int, step: int
) -> Judged:
    """Say which sample of a batch differs, and whether in x or y."""
    if one["samples"][batch] == other["samples"][batch]:
        phase = "the same, in another order"
    else:
        phase = "other samples"
    which = ""
    if "x_rows" in one and "x_rows" in other:
        starts = [int(order["lengths"][:batch].sum()) for order in (one, other)]
        lengths = [int(order["lengths"][batch]) for order in (one, other)]
        has_rows = all(
            start + length <= len(order["x_rows"])
            for start, length, order in zip(starts, lengths, (one, other), strict=True)
        )
        if lengths[0] != lengths[1]:
            which = f": {lengths[0]} and {lengths[1]} samples"
        elif has_rows:
            x, y = (
                [order[f"{name}_rows"][start : start + lengths[0]]
                 for order, start in zip((one, other), starts, strict=True)]
                for name in "xy"
            )  # fmt: skip
            which = _which(x, y)
        elif phase == "other samples" and "x" in one and "x" in other:
            which = ": in " + ("y" if one["x"][batch] == other["x"][batch] else "x")
    why = f"the batch of step {step} holds {phase}{which}"
    tensor = "order" if phase == "the same, in another order" else "batches"
    return _fail(pair, phase, step, why, tensor)


def _which(x: list[np.ndarray], y: list[np.ndarray]) -> str:
    """Say which samples of a batch differ, by the fingerprints of their rows."""
    bad_x, bad_y = x[0] != x[1], y[0] != y[1]
    numbers = np.flatnonzero(bad_x | bad_y)
    if not len(numbers):
        return ""
    parts = " and ".join(name for name, bad in (("x", bad_x), ("y", bad_y)) if bad.any())
    shown = ", ".join(map(str, numbers[:4])) + (", …" if len(numbers) > 4 else "")
    some = "sample" if len(numbers) == 1 else "samples"
    return f": {some} {shown} of the batch, in {parts}"


def _find_dropped(pair: Compared) -> tuple[int, str] | None:
    """Return the step and the words of a batch that one side left out of the last common epoch."""
    orders = {"a": pair.a.named("order"), "b": pair.b.named("order")}
    if not all("epoch" in order for order in orders.values()):
        return None
    epoch = min(int(order["epoch"].max(initial=0)) for order in orders.values())
    counts = {side: int((order["epoch"] == epoch).sum()) for side, order in orders.items()}
    short = min(counts, key=lambda side: counts[side])
    longer = "b" if short == "a" else "a"
    record = pair.a if short == "a" else pair.b
    if counts[short] == counts[longer] or record.about.get("status") != "FINISHED":
        return None
    batch = int(np.flatnonzero(orders[longer]["epoch"] == epoch)[counts[short]])
    step = int(orders[longer]["step"][batch])
    return step, _tell_dropped(pair, epoch, counts, short, orders[longer], batch, step)


def _tell_dropped(
    pair: Compared,
    epoch: int,
    counts: Mapping[str, int],
    short: str,
    order: Mapping[str, np.ndarray],
    batch: int,
    step: int,
) -> str:
    """Say how many batches each run has in an epoch, and which one the run `short` lacks."""
    return (
        f"epoch {epoch} has {counts['a']} batches in {pair.label('a')} and {counts['b']} in "
        f"{pair.label('b')}: {pair.label(short)} lacks the batch of "
        f"{int(order['lengths'][batch])} samples at step {step}"
    )


def explain_lengths(pair: Compared) -> str:
    """Say why the two made another number of steps; with ``!`` in front where nothing explains it.

    A run ends early by its own validation curve, or because its loss was not finite.
    """
    counts = {"a": pair.a.steps, "b": pair.b.steps}
    whole = {}
    for side, record in (("a", pair.a), ("b", pair.b)):
        per_epoch = int(record.about.get("updates_per_epoch", 0))
        epochs = int(record.config["train"].get("epochs", 0))
        whole[side] = per_epoch * epochs
    if counts["a"] == counts["b"]:
        return ""
    texts = []
    for side, record in (("a", pair.a), ("b", pair.b)):
        if counts[side] >= whole[side]:
            continue
        loss = record.arrays["loss"]
        if not np.isfinite(loss[-1]):
            texts.append(f"{pair.label(side)} diverged at step {counts[side]}")
        elif record.about.get("status") in ("KILLED", "FAILED"):
            texts.append(f"{pair.label(side)} was stopped after step {counts[side]}")
        elif record.config["train"].get("patience") is not None and "val/step" in record.arrays:
            texts.append(f"{pair.label(side)} stopped early after step {counts[side]}")
        else:
            return f"!{_unexplained(pair, side, counts[side], whole[side])}"
    longer = max(counts, key=lambda side: counts[side])
    shorter = "b" if longer == "a" else "a"
    if not whole[shorter]:
        return (
            f"!{pair.label(shorter)} made {counts[shorter]} steps and {pair.label(longer)} "
            f"{counts[longer]}, and nothing in the records says why"
        )
    if counts[longer] > whole[longer]:
        return f"!{_unexplained(pair, longer, counts[longer], whole[longer])}"
    judged_steps = (
        f"{counts['a']} and {counts['b']} steps: the {pair.steps} that both made are judged"
    )
    return f"{'; '.join(texts)}; {judged_steps}"


def _unexplained(pair: Compared, side: str, made: int, asked: int) -> str:
    """Say that a run made other than the asked number of steps for no recorded reason."""
    label = pair.label(side)
    return f"{label} made {made} of {asked} steps, and nothing in its record says why"


def _abstain(why: str) -> Judged:
    """Return the ABSTAIN of the rung, and why."""
    return Judged(rung=Rung(name="data", verdict="ABSTAIN", why=why))


def _fail(pair: Compared, phase: str, step: int | None, why: str, tensor: str) -> Judged:
    """Return the FAIL of the rung with its finding, or its PASS where that is accepted."""
    rung = Rung(name="data", verdict="FAIL", kind="data", tensor=tensor, step=step, why=why)
    finding = Finding(kind="data", rung="data", phase=phase, step=step, tensor=tensor, detail=why)
    return accept_or_fail(pair, Judged(rung=rung, findings=(finding,)), {phase, tensor})
