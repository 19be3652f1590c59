"""Tables of runs and of pairs: a header and rows of text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from pipeline import identity
from pipeline.leaderboard import SeedVerdict
from pipeline.naming import name_runs
from pipeline.parity import distance
from pipeline.parity.equivalence import Equivalence
from pipeline.parity.verdict import Ladder, Rung
from pipeline.record.record import RunRecord
from pipeline.report.sentences import tell_pair_verdicts

Pair = tuple[RunRecord, RunRecord]


Table = tuple[list[str], list[list[str]]]


MISSING = "–"


_MOST_SCALARS = 8  # models up to this size have their parameters in the table


_MOST_TENSORS = 40  # a pair's table has a row for each, and beyond this for the farthest only


_DIGITS = {"float32": 9, "float64": 17}  # what it takes to read back the same bits


_END = ", at the end"


FEW_RUNS = 4  # up to this many are put side by side, which reads better than wide rows


def summarise_runs(records: Sequence[RunRecord]) -> Table:
    """Return header and rows of a table of runs, a row a run.

    Parameters of small models are written with the digits that tell their bits (9 for float32, 17
    for float64), with their distances from the true values and from least squares where those are
    known. The test scores, on samples that were not trained on, are those that the runs have. What
    a run lacks is ``–``, and what all of them lack has no column.
    """
    parameters = [read_parameters(record) for record in records]
    truths = [read_scalars(read_facts(record).get("truth")) for record in records]
    optima = [read_scalars(record.about.get("least_squares")) for record in records]
    keys = list(dict.fromkeys(key for config in parameters for key in config))
    header = ["run"]
    columns = [name_runs(records)]
    for key in keys:
        values_of_key = [values.get(key) for values in parameters]
        header.append(key)
        columns.append([as_exact(value) for value in values_of_key])
        for sign, known in (("true", truths), ("least squares", optima)):
            header.append(f"|{key} − {sign}|")
            goals = [values.get(key) for values in known]
            columns.append([_apart(*both) for both in zip(values_of_key, goals, strict=True)])
    losses = [record.arrays.get("loss", np.empty(0)) for record in records]
    times = [record.about.get("time", {}).get("step_us") for record in records]
    scores = [record.about.get("scores", {}) for record in records]
    header += ["first loss", "last loss", "test MSE", "test accuracy", "test log loss", "µs/step"]
    columns += [
        [as_number(loss[0], ".6g") if len(loss) else MISSING for loss in losses],
        [as_number(loss[-1], ".6g") if len(loss) else MISSING for loss in losses],
        [as_number(run_scores.get("mse"), ".6g") for run_scores in scores],
        [
            as_percent(run_scores.get("accuracy"), record)
            for run_scores, record in zip(scores, records, strict=True)
        ],
        [as_number(run_scores.get("log_loss"), ".6g") for run_scores in scores],
        [as_number(time, ".1f") for time in times],
    ]
    filled = [i for i, column in enumerate(columns) if set(column) != {MISSING}]
    rows = [list(row) for row in zip(*(columns[i] for i in filled), strict=True)]
    return [header[i] for i in filled], rows


def summarise_pair(a: RunRecord, b: RunRecord) -> Table:
    """Return header and rows of a table of two runs' distances, a row a parameter.

    The three largest differences are taken over all steps, each on its own; the last column is the
    step of the largest in ulps. Of very many parameters the farthest are there, and a last row says
    how many are not. Where a run kept no parameters step by step, the rows are its loss at every
    step and its parameters at the end. Runs that cannot be compared give one row that says why.
    """
    try:
        return tabulate_gaps(measure_gaps(a, b), a)
    except ValueError as error:
        header, _ = tabulate_gaps([], a)
        return header, [[f"cannot be compared: {error}", *[MISSING] * (len(header) - 1)]]


def measure_gaps(a: RunRecord, b: RunRecord) -> list[distance.Gap]:
    """Measure two runs: every parameter at every step, or what `pair_summary` says instead."""
    if a.named("param") and b.named("param"):
        return distance.trajectories(a, b)
    gaps = distance.trajectories(_stand_in(a), _stand_in(b))
    ends = [gap for gap in gaps if gap.name.endswith(_END) and gap.first is not None]
    late = {gap.name: dataclasses.replace(gap, first=a.steps, step=a.steps) for gap in ends}
    return [late.get(gap.name, gap) for gap in gaps]


def _stand_in(run: RunRecord) -> RunRecord:
    """Return a run with its loss and its last parameters in place of every step's."""
    arrays = {f"param/{name}{_END}": value[None] for name, value in run.named("last").items()}
    if run.steps:
        # The loss of update 1 gets a row before it, so that a row's number is the step's.
        arrays = {"param/loss": np.pad(run.arrays["loss"], (1, 0))} | arrays
    return RunRecord(about=run.about, arrays=arrays)


def tabulate_gaps(gaps: Sequence[distance.Gap], record: RunRecord) -> Table:
    """Return a table of how far apart two runs' parameters were, the worst if there are many."""
    header = [
        "parameter", "shape", "first difference", "max |a − b|", "max relative", "max ulps",
        "at step",
    ]  # fmt: skip
    shapes = {name: value.shape for name, value in record.named("last").items()}
    shapes |= {name: value.shape[1:] for name, value in record.named("param").items()}
    shown = list(gaps)
    if len(gaps) > _MOST_TENSORS:
        shown = sorted(gaps, key=lambda gap: -gap.ulp)[:_MOST_TENSORS]
    rows = []
    for gap in shown:
        shape = shapes.get(gap.name.removesuffix(_END), ())
        before = " or before" if gap.name.endswith(_END) else ""
        rows.append(
            [
                gap.name,
                "×".join(map(str, shape)) or "scalar",
                "never" if gap.first is None else f"step {gap.first}{before}",
                as_number(gap.absolute, ".3g"),
                as_number(gap.relative, ".3g"),
                as_number(gap.ulp, ".15g"),
                MISSING if gap.first is None else str(gap.step),
            ]
        )
    if len(shown) < len(gaps):
        rest = f"{len(gaps) - len(shown)} more, none farther apart than {shown[-1].ulp:.15g} ulps"
        rows.append([rest, *[""] * (len(header) - 1)])
    return header, rows


def tabulate_ladder(ladder: Ladder) -> Table:
    """Return header and rows of a table of a pair's rungs; what a rung lacks is empty."""
    header = [
        "rung", "verdict", "by", "tensor", "step", "distance", "bound", "bound from", "why",
    ]  # fmt: skip
    return header, [_rung(rung) for rung in ladder.rungs]


def _rung(rung: Rung) -> list[str]:
    """Return a rung as a row of the ladder's table."""
    measured = ["" if value is None else f"{value:.2g}" for value in (rung.distance, rung.bound)]
    step = "" if rung.step is None else str(rung.step)
    bare = rung.source == rung.by or (rung.verdict == "ABSTAIN" and rung.bound is None)
    source = "" if bare else rung.source
    by = rung.kind or rung.by
    return [rung.name, rung.verdict, by, rung.tensor, step, *measured, source, rung.why]


def read_facts(record: RunRecord) -> Mapping[str, Any]:
    """Return what is known of a record's data set, such as its true values; empty if nothing is."""
    facts: Mapping[str, Any] = record.about.get("data", {}).get("facts", {})
    return facts


def read_scalars(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Flatten tensors into named scalars: ``w``, or ``w.0``, ``w.1`` where it has several."""
    scalars = {}
    for name, value in (values or {}).items():
        flat = np.asarray(value).reshape(-1)
        for i, scalar in enumerate(flat):
            scalars[name if flat.size == 1 else f"{name}.{i}"] = scalar
    return scalars


def read_parameters(record: RunRecord) -> dict[str, Any]:
    """Return the last parameters as scalars, nothing if the model has too many for a table."""
    last = record.named("last")
    if sum(value.size for value in last.values()) > _MOST_SCALARS:
        return {}
    return read_scalars(last)


def as_exact(value: Any) -> str:
    """Write a number so that its bits can be read back; NumPy's own text does for longdouble."""
    if value is None:
        return MISSING
    digits = _DIGITS.get(str(value.dtype))
    return f"{value:.{digits}g}" if digits else str(value)


def _apart(value: Any, goal: Any) -> str:
    """Write the distance of a value from its goal; `MISSING` where one of them is None."""
    if value is None or goal is None:
        return MISSING
    return as_number(abs(float(value) - float(goal)), ".3g")


def as_number(value: Any, form: str) -> str:
    """Write a number in a format such as ``.3g``; `MISSING` for None."""
    return MISSING if value is None else format(float(value), form)


def as_percent(accuracy: float | None, record: RunRecord) -> str:
    """Write an accuracy with the digits that tell one of the test samples from another."""
    if accuracy is None:
        return MISSING
    samples = len(record.arrays.get("prediction", ())) or 1
    return f"{100 * accuracy:.{max(2, math.ceil(math.log10(samples)) - 2)}f} %"


def as_cell(value: Any) -> str:
    """Write a setting as YAML does."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def list_differing(records: Sequence[RunRecord]) -> list[str]:
    """Return the dotted keys of the settings in which the runs differ."""
    flat = [identity.flatten(record.config) for record in records]
    keys = dict.fromkeys(key for config in flat for key in config)
    return [
        k for k in keys if any(config.get(k, MISSING) != flat[0].get(k, MISSING) for config in flat)
    ]


def tabulate_verdicts(
    records: Sequence[RunRecord],
    pairs: Sequence[Pair],
    ladders: Sequence[Ladder],
    by_seeds: Sequence[SeedVerdict] = (),
) -> Table:
    """Return a table of pairs: the two runs, the verdict, and why."""
    named = dict(zip(map(id, records), name_runs(records), strict=True))
    rows = [
        [named[id(a)], named[id(b)], verdict, why]
        for (a, b), (verdict, why) in zip(pairs, tell_pair_verdicts(ladders, by_seeds), strict=True)
    ]
    return ["a", "b", "verdict", "why"], rows


def tabulate_equivalences(equal: Mapping[str, Equivalence]) -> Table:
    """Return a table of the tests of backends against each other over seeds."""
    rows = [[name, test.outcome, test.sentence()] for name, test in equal.items()]
    return ["scores", "outcome", "why"], rows
