"""Records as tables and as one HTML file that can be sent to somebody; draws nothing itself."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import yaml

from pipeline import identity
from pipeline.leaderboard import SeedVerdict
from pipeline.naming import name_runs
from pipeline.parity import distance
from pipeline.parity.equivalence import Equivalence
from pipeline.parity.verdict import WORST, Ladder, Rung
from pipeline.record.record import RunRecord

Pair = tuple[RunRecord, RunRecord]
Table = tuple[list[str], list[list[str]]]

MISSING = "–"
_MOST_SCALARS = 8  # models up to this size have their parameters in the table
_MOST_TENSORS = 40  # a pair's table has a row for each, and beyond this for the farthest only
_DIGITS = {"float32": 9, "float64": 17}  # what it takes to read back the same bits
_END = ", at the end"
_NO_DERIVATIVE = 1e-4  # of the gradient's norm; right ones are within 1e-8 in float64
_MOST_LINES = 8  # of a list or table in a description
MOST_NOTES = 5  # of a pair, that are shown at once
_FEW_RUNS = 4  # up to this many are put side by side, which reads better than wide rows

_CAPTIONS = {
    "curves": "The training losses, a panel for each combination of what was swept; seeds lie over "
    "each other. All panels have one scale.",
    "sensitivity": "The final test score over each swept setting: a dot a run, lines through the "
    "means over everything else.",
    "cost": "The final test score over the time that training took, a mark a run.",
    "samples": "The training samples.",
    "fit": "The training samples with each run's learned line. The least-squares line is drawn "
    "longer than the learned ones, so that its ends show where they coincide.",
    "loss": "The training loss before each step, on a logarithmic axis. Dotted: the same on "
    "validation samples, after that step. A line marked noise is what the noise alone leaves on "
    "average.",
    "validation": "The other scores of the validation samples, which no run was trained on.",
    "confusion": "How many test samples of each class get which class; a row's colours are its "
    "shares. What is not on the diagonal is wrong.",
    "path": "The way of the two parameters over contours of the training loss. The contours are "
    "log-spaced and belong to the first run's loss.",
    "residuals": "What is left on test samples, which no run was trained on, and how it is "
    "distributed.",
    "ulps": "How many representable numbers lie between the two runs' parameters at each step; "
    "0 means the same bits. The axis is linear up to 1 and logarithmic above. A line at the top, "
    "at 2·10⁹ in float32, is a small number whose sign differs.",
    "distance": "How far apart the two runs' parameters are after each step, relative to the norm "
    "of all of them; how far a step takes them apart that starts from one state; and how far "
    "float32 takes such a step from float64. Each step from equal states is judged, tensor by "
    "tensor: how rounding grows over the steps of two free runs is told, and is no finding.",
    "ladder": "Each tensor's largest distance over its bound on each rung: 1 is at the bound, blue "
    "is within it, orange and framed beyond; = is the same bits, hatched was not judged, and what "
    "is blank has no such tensor. Beyond it with a PASS is rounding at a kink: moved by single "
    "roundings the step agrees.",
    "reference": "How far each run's parameters are from those of the reference after each step, "
    "in ulps of the norm of all parameters. In a pair that passes, what is nearer rounds better.",
    "ulp_histogram": "How many representable numbers lie between the two runs' parameters, number "
    "by number, after the start; 0 means the same bits. Both axes are logarithmic.",
}


def leftovers(named: Sequence[str], *, pairs: int) -> str:
    """Return which runs have no partner, in a line; all of them are in ``parity.json``."""
    if not pairs and len(named) > 1:
        return f"No two of the {len(named)} runs are a pair: equal settings, another backend."
    more = len(named) - _MOST_LINES
    shown = [*named[:_MOST_LINES], *([f"{more} more are in parity.json"] if more > 0 else [])]
    return f"Without a partner: {'; '.join(shown)}"


def summary(records: Sequence[RunRecord]) -> Table:
    """Return header and rows of a table of runs, a row a run.

    Parameters of small models are written with the digits that tell their bits (9 for float32, 17
    for float64), with their distances from the true values and from least squares where those are
    known. The test scores, on samples that were not trained on, are those that the runs have. What
    a run lacks is ``–``, and what all of them lack has no column.
    """
    parameters = [_parameters(record) for record in records]
    truths = [_scalars(_facts(record).get("truth")) for record in records]
    optima = [_scalars(record.about.get("least_squares")) for record in records]
    keys = list(dict.fromkeys(key for own in parameters for key in own))
    header = ["run"]
    columns = [name_runs(records)]
    for key in keys:
        own = [values.get(key) for values in parameters]
        header.append(key)
        columns.append([_exact(value) for value in own])
        for sign, known in (("true", truths), ("least squares", optima)):
            header.append(f"|{key} − {sign}|")
            goals = [values.get(key) for values in known]
            columns.append([_apart(*both) for both in zip(own, goals, strict=True)])
    losses = [record.arrays.get("loss", np.empty(0)) for record in records]
    times = [record.about.get("time", {}).get("step_us") for record in records]
    scores = [record.about.get("scores", {}) for record in records]
    header += ["first loss", "last loss", "test MSE", "test accuracy", "test log loss", "µs/step"]
    columns += [
        [_number(loss[0], ".6g") if len(loss) else MISSING for loss in losses],
        [_number(loss[-1], ".6g") if len(loss) else MISSING for loss in losses],
        [_number(own.get("mse"), ".6g") for own in scores],
        [
            _percent(own.get("accuracy"), record)
            for own, record in zip(scores, records, strict=True)
        ],
        [_number(own.get("log_loss"), ".6g") for own in scores],
        [_number(time, ".1f") for time in times],
    ]
    kept = [i for i, column in enumerate(columns) if set(column) != {MISSING}]
    rows = [list(row) for row in zip(*(columns[i] for i in kept), strict=True)]
    return [header[i] for i in kept], rows


def pair_summary(a: RunRecord, b: RunRecord) -> Table:
    """Return header and rows of a table of two runs' distances, a row a parameter.

    The three largest differences are taken over all steps, each on its own; the last column is the
    step of the largest in ulps. Of very many parameters the farthest are there, and a last row says
    how many are not. Where a run kept no parameters step by step, the rows are its loss at every
    step and its parameters at the end. Runs that cannot be compared give one row that says why.
    """
    try:
        return _pair_table(_gaps(a, b), a)
    except ValueError as error:
        header, _ = _pair_table([], a)
        return header, [[f"cannot be compared: {error}", *[MISSING] * (len(header) - 1)]]


def _gaps(a: RunRecord, b: RunRecord) -> list[distance.Gap]:
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


def _pair_table(gaps: Sequence[distance.Gap], record: RunRecord) -> Table:
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
                _number(gap.absolute, ".3g"),
                _number(gap.relative, ".3g"),
                _number(gap.ulp, ".15g"),
                MISSING if gap.first is None else str(gap.step),
            ]
        )
    if len(shown) < len(gaps):
        rest = f"{len(gaps) - len(shown)} more, none farther apart than {shown[-1].ulp:.15g} ulps"
        rows.append([rest, *[""] * (len(header) - 1)])
    return header, rows


def ladder_table(ladder: Ladder) -> Table:
    """Return header and rows of a table of a pair's rungs; what a rung lacks is empty."""
    header = [
        "rung", "verdict", "by", "tensor", "step", "distance", "bound", "bound from", "why",
    ]  # fmt: skip
    return header, [_rung(rung) for rung in ladder.rungs]


def _rung(rung: Rung) -> list[str]:
    measured = ["" if value is None else f"{value:.2g}" for value in (rung.distance, rung.bound)]
    step = "" if rung.step is None else str(rung.step)
    bare = rung.source == rung.by or (rung.verdict == "ABSTAIN" and rung.bound is None)
    source = "" if bare else rung.source
    by = rung.kind or rung.by
    return [rung.name, rung.verdict, by, rung.tensor, step, *measured, source, rung.why]


def beside(ladder: Ladder) -> list[str]:
    """Say what was measured beside a verdict, a sentence each; notes are not among them."""
    found = []
    if ladder.growth is not None:
        found.append(f"Distance over the steps: {ladder.growth.text}.")
    if ladder.verdict == "PASS" and "speed" in ladder.facts:
        found.append(f"{ladder.facts['speed']}.")
    labels = {"a": ladder.a, "b": ladder.b}
    ends = {side: (errors.max(), errors[-1]) for side, errors in ladder.errors.items()}
    if ends:
        words = ("is at most ", " ulp off", "last step ")
        parts: list[str] = []
        for side, (most, last) in ends.items():
            is_at, off, at_last = ("", "", "") if parts else words
            parts.append(f"{labels[side]} {is_at}{most:.3g}{off} ({at_last}{last:.3g})")
        found.append(f"Against {ladder.reference}: {', '.join(parts)}.{_nearer(labels, ends)}")
    prove = ladder.facts.get("prove")
    if prove is not None:
        ratio = prove["ratio"]
        times = "" if ratio is None else f", {ratio:.2g} times as far"
        found.append(
            f"Both again in float64: at most {prove['float64']:.2g} apart; as they were run "
            f"{prove['native']:.2g}{times} (rounding in float32 alone gives about 5e+08)."
        )
    for side, checked in ladder.facts.get("gradcheck", {}).items():
        found.append(f"Gradients of {labels[side]}: {_checked(checked)}.")
    return found


def _nearer(labels: Mapping[str, str], ends: Mapping[str, Sequence[float]]) -> str:
    """Say which side is nearer the reference, if one is by a tenth at most and at the end."""
    if len(ends) < 2:
        return ""
    for side, other in (("a", "b"), ("b", "a")):
        if all(x < 0.9 * y for x, y in zip(ends[side], ends[other], strict=True)):
            return f" {labels[side]} is nearer."
    return " Neither is clearly nearer."


def _checked(found: Mapping[str, Any]) -> str:
    if "why" in found:
        return f"not checked, {found['why']}"
    text = f"at most {found['largest']:.2g} from central differences"
    if found["largest"] > _NO_DERIVATIVE:
        worst = max(found["central differences"], key=found["central differences"].__getitem__)
        text = f"no derivative of the loss, that of {worst} is {found['largest']:.2g} off"
    by_hand = found.get("hand-derived")
    return f"{text}, {max(by_hand.values()):.2g} from those derived by hand" if by_hand else text


def render(
    records: Sequence[RunRecord],
    *,
    pairs: Sequence[Pair],
    ladders: Sequence[Ladder],
    images: Mapping[str, bytes],
    title: str,
    notes: Sequence[str],
    board: Table = ([], []),
    equal: Mapping[str, Equivalence] | None = None,
    by_seeds: Sequence[SeedVerdict] = (),
) -> str:
    """Return the report as one HTML file that needs nothing else: no script, link or font.

    Parameters
    ----------
    records
        The runs, in the order of the table.
    pairs
        Each gets two tables of its own: its rungs, and its parameters.
    ladders
        The verdicts on the pairs, in their order.
    images
        PNG files by name; a name may carry a suffix in brackets (``fit (1a2b3c4d)``).
    title
        The heading.
    notes
        Sentences put right under it.
    board
        Header and rows of the leaderboard; empty where there is none.
    equal
        Tests of backends against each other over seeds, by what was tested.
    by_seeds
        Verdicts on groups whose runs drew their own starts; they are at the top, and the ladders of
        the pairs that they cover are folded.
    """
    named = name_runs(records)
    header, rows = summary(records)
    if len(rows) <= _FEW_RUNS:
        header, *rows = (list(line) for line in zip(header, *rows, strict=True))
    keys = _differing(records)
    flat = [identity.flatten(record.config) for record in records]
    blocks = [
        _pair(a, b, records=records, named=named) | _verdict(ladder)
        for (a, b), ladder in zip(pairs, ladders, strict=True)
    ]
    covered = covered_pairs(by_seeds)
    return _ENVIRONMENT.from_string(_TEMPLATE).render(
        title=title,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        notes=notes,
        what=_what(records),
        board=board,
        equal=[(name, test.sentence()) for name, test in (equal or {}).items()],
        header=header,
        rows=rows,
        any_pairs=bool(blocks),
        pairs=[blocks[i] for i in range(len(blocks)) if i not in covered],
        by_seeds=[(group, [blocks[i] for i in group.covers]) for group in by_seeds],
        images=[
            {
                "name": name,
                "data": base64.b64encode(image).decode(),
                "caption": _CAPTIONS.get(name.split(" ")[0], name),
            }
            for name, image in images.items()
        ],
        most_notes=MOST_NOTES,
        versions=_versions(records),
        failed=[
            (name, record.about.get("status"), record.about.get("message") or "no message")
            for name, record in zip(named, records, strict=True)
            if record.about.get("status", "FINISHED") != "FINISHED"
        ],
        keys=keys,
        differing=[
            [name, *(_shown(own.get(key, MISSING)) for key in keys)]
            for name, own in zip(named, flat, strict=True)
        ],
        configs=[
            (name, record.about.get("run"), _config_text(record, keys=keys))
            for name, record in zip(named, records, strict=True)
        ],
    )


def _facts(record: RunRecord) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = record.about.get("data", {}).get("facts", {})
    return facts


def _scalars(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Flatten tensors into named scalars: ``w``, or ``w.0``, ``w.1`` where it has several."""
    found = {}
    for name, value in (values or {}).items():
        flat = np.asarray(value).reshape(-1)
        for i, scalar in enumerate(flat):
            found[name if flat.size == 1 else f"{name}.{i}"] = scalar
    return found


def _parameters(record: RunRecord) -> dict[str, Any]:
    """Return the last parameters as scalars, nothing if the model has too many for a table."""
    last = record.named("last")
    if sum(value.size for value in last.values()) > _MOST_SCALARS:
        return {}
    return _scalars(last)


def _exact(value: Any) -> str:
    """Write a number so that its bits can be read back; NumPy's own text does for longdouble."""
    if value is None:
        return MISSING
    digits = _DIGITS.get(str(value.dtype))
    return f"{value:.{digits}g}" if digits else str(value)


def _apart(value: Any, goal: Any) -> str:
    if value is None or goal is None:
        return MISSING
    return _number(abs(float(value) - float(goal)), ".3g")


def _number(value: Any, form: str) -> str:
    return MISSING if value is None else format(float(value), form)


def _percent(accuracy: float | None, record: RunRecord) -> str:
    """Write an accuracy with the digits that tell one of the test samples from another."""
    if accuracy is None:
        return MISSING
    samples = len(record.arrays.get("prediction", ())) or 1
    return f"{100 * accuracy:.{max(2, math.ceil(math.log10(samples)) - 2)}f} %"


def _shown(value: Any) -> str:
    """Write a setting as YAML does."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _differing(records: Sequence[RunRecord]) -> list[str]:
    """Return the dotted keys of the settings in which the runs differ."""
    flat = [identity.flatten(record.config) for record in records]
    keys = dict.fromkeys(key for own in flat for key in own)
    return [k for k in keys if any(own.get(k, MISSING) != flat[0].get(k, MISSING) for own in flat)]


def _config_text(record: RunRecord, *, keys: Iterable[str]) -> str:
    """Write a config as YAML, the settings in which the runs differ first."""
    flat = identity.flatten(record.config)
    first = [f"# {key}: {_shown(flat[key])}" for key in keys if key in flat]
    head = ["# Differs between the runs:", *first, ""] if first else []
    body = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
    return "\n".join([*head, body])


def _what(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Say in a few lines what was run; where runs differ, all values."""
    wanted = {
        "backend": "backend.name",
        "data": "data.name",
        "model": "model.name",
        "first weights": "model.init",
        "loss": "loss.name",
        "optimizer": "optimizer.name",
        "learning rate": "optimizer.lr",
        "loop": "train.loop",
        "epochs": "train.epochs",
        "precision": "backend.dtype",
        "seed": "seed",
    }
    flat = [identity.flatten(record.config) for record in records]
    lines = [("runs", str(len(records)))]
    for word, key in wanted.items():
        values = dict.fromkeys(_shown(own[key]) for own in flat if key in own)
        if values:
            lines.append((word, ", ".join(values)))
    digests = dict.fromkeys(str(r.about.get("data", {}).get("digest", "")) for r in records)
    if any(digests):
        lines.append(("data digest", ", ".join(digest[:16] for digest in digests if digest)))
    return lines


def _versions(records: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return by backend what its runs were made with; several values are joined."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for record in records:
        own = found.setdefault(record.backend, {})
        for name, value in record.about.get("versions", {}).items():
            own.setdefault(name, {})[str(value) or MISSING] = None
    return [
        (backend, [(name, ", ".join(values)) for name, values in own.items()])
        for backend, own in found.items()
        if own
    ]


def _pair(
    a: RunRecord, b: RunRecord, *, records: Sequence[RunRecord], named: Sequence[str]
) -> dict[str, Any]:
    """Return a pair's heading, its table, and what the table says in one sentence."""
    name = {id(record): own for record, own in zip(records, named, strict=True)}
    gaps: list[distance.Gap] = []
    with contextlib.suppress(ValueError):
        gaps = _gaps(a, b)
    header, rows = _pair_table(gaps, a) if gaps else pair_summary(a, b)
    said, everything = "", "parameter at every step"
    if gaps and not (a.named("param") and b.named("param")):
        everything = "loss and in every parameter at the end"
        said = (
            "No parameters were kept step by step (record.trace=full keeps them): compared are the "
            "loss at each step and the parameters at the end. "
        )
    differing = [gap for gap in gaps if gap.first is not None]
    if gaps and not differing:
        said += f"Identical bits in every {everything}."
    elif differing:
        farthest = max(differing, key=lambda gap: gap.ulp)
        first = min(gap.first for gap in differing if gap.first is not None)
        said += (
            f"The first bit differs at step {first}; the farthest apart is {farthest.name}, by "
            f"{farthest.ulp:.15g} ulp{'s' * (farthest.ulp != 1)} at step {farthest.step}."
        )
    heading = [name.get(id(record), record.label()) for record in (a, b)]
    return {"names": heading, "header": header, "rows": rows, "said": said}


def _verdict(ladder: Ladder) -> dict[str, Any]:
    """Return what the template says of a pair's ladder."""
    header, rungs = ladder_table(ladder)
    return {
        "verdict": ladder.verdict,
        "sentence": ladder.sentence().removeprefix("PASS "),
        "columns": header,
        "rungs": rungs,
        "beside": beside(ladder),
        "notes": ladder.notes,
    }


def covered_pairs(by_seeds: Sequence[SeedVerdict]) -> set[int]:
    """Return the positions of the pairs that are judged over seeds and not one by one."""
    return {i for group in by_seeds for i in group.covers}


def pair_verdicts(
    ladders: Sequence[Ladder], by_seeds: Sequence[SeedVerdict] = ()
) -> list[tuple[str, str]]:
    """Return the verdict on each pair and why: its ladder's, or that on its group over seeds."""
    judged = [(ladder.verdict, ladder.sentence()) for ladder in ladders]
    for group in by_seeds:
        for i in group.covers:
            judged[i] = (group.verdict, group.sentence)
    return judged


def verdicts(
    records: Sequence[RunRecord],
    pairs: Sequence[Pair],
    ladders: Sequence[Ladder],
    by_seeds: Sequence[SeedVerdict] = (),
) -> Table:
    """Return a table of pairs: the two runs, the verdict, and why."""
    named = dict(zip(map(id, records), name_runs(records), strict=True))
    rows = [
        [named[id(a)], named[id(b)], verdict, why]
        for (a, b), (verdict, why) in zip(pairs, pair_verdicts(ladders, by_seeds), strict=True)
    ]
    return ["a", "b", "verdict", "why"], rows


def by_verdict(by_seeds: Sequence[SeedVerdict], *, worst_first: bool) -> list[SeedVerdict]:
    """Return the verdicts over seeds, sorted; the worst one is what counts."""
    return sorted(by_seeds, key=lambda group: WORST[group.verdict], reverse=worst_first)


def equivalences(equal: Mapping[str, Equivalence]) -> Table:
    """Return a table of the tests of backends against each other over seeds."""
    rows = [[name, test.outcome, test.sentence()] for name, test in equal.items()]
    return ["scores", "outcome", "why"], rows


def asked(overrides: Sequence[str], *, jobs: int | None) -> str:
    """Describe in Markdown what a sweep was asked for."""
    many = "a search" if jobs is None else f"{jobs} jobs"
    command = " \\\n  ".join(["python -m pipeline -m", *map(shlex.quote, overrides)])
    return (
        f"**Sweep**, {many}; its runs are nested below. Its tags `linked.…` name those that an "
        f"earlier one had finished.\n\n```\n{command}\n```\n"
    )


def description(
    records: Sequence[RunRecord],
    *,
    overrides: Sequence[str],
    jobs: int | None,
    notes: Sequence[str],
    pairs: Sequence[Pair] = (),
    ladders: Sequence[Ladder] = (),
    board: Table = ([], []),
    equal: Mapping[str, Equivalence] | None = None,
    by_seeds: Sequence[SeedVerdict] = (),
) -> str:
    """Describe in Markdown what a sweep was asked for and what it came to, at most a page."""
    parts = [asked(overrides, jobs=jobs)]
    if by_seeds:
        sorted_groups = by_verdict(by_seeds, worst_first=True)
        told = [f"- **{group.verdict}**: {group.sentence}" for group in sorted_groups]
        parts.append("**Verdict over seeds:**\n\n" + _listed(told))
    covered = covered_pairs(by_seeds)
    rows = verdicts(records, pairs, ladders)[1]
    judged = [row for i, row in enumerate(rows) if i not in covered]
    if judged:
        kinds = [kind for _, _, kind, _ in judged]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in WORST if kind in kinds)
        many = "1 pair" if len(judged) == 1 else f"{len(judged)} pairs"
        parts.append(f"**Parity of {many}:** {counted}.")
        bad = [f"- {a} against {b}: {why}" for a, b, kind, why in judged if kind != "PASS"]
        parts.append(_listed(bad))
    decided = {group.title for group in by_seeds}
    rest = {name: test for name, test in (equal or {}).items() if name not in decided}
    if rest:
        sentences = [f"- {name}: {test.sentence()}" for name, test in rest.items()]
        parts.append("**Over seeds:**\n\n" + _listed(sentences))
    if board[1]:
        header, rows = board[0], board[1][:_MOST_LINES]
        lines = [header, ["---"] * len(header), *rows]
        first = "" if len(rows) == len(board[1]) else f", the first {len(rows)} of {len(board[1])}"
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"**Leaderboard{first}:**\n\n{text}")
    if notes:
        parts.append("**Not finished:**\n\n" + _listed([f"- {note}" for note in notes]))
    if records:
        parts.append(
            "Artifacts: `report.html` has everything in one file; `parity.json` has the verdicts "
            "in full, the other `.json` files are tables, `plots/` the pictures."
        )
    return "\n\n".join(part for part in parts if part)


def _listed(lines: Sequence[str]) -> str:
    shown = [line if len(line) < 300 else f"{line[:299]}…" for line in lines[:_MOST_LINES]]
    more = [f"- … and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
    return "\n".join([*shown, *more])


_ENVIRONMENT = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)

# The policy in the head makes a reader's browser refuse whatever is not in this file.
_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="twingrad">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60666d; --line: #d9dde1;
  --page: #ffffff; --panel: #f5f7f8; --accent: #0b7285; --bad: #a50f15; --good: #1a7f37;
  --open: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a0a7ae; --line: #3a4046;
  --page: #16191c; --panel: #1f2327; --accent: #4cc9e0; --bad: #ff8a80; --good: #6fdd8b;
  --open: #f2c14e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 2px solid var(--accent); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.soft { color: var(--soft); }
.bad, .FAIL, .ERROR { color: var(--bad); }
.PASS { color: var(--good); }
.ABSTAIN { color: var(--open); }
.PASS, .FAIL, .ERROR, .ABSTAIN { font-weight: 700; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.4rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .38rem .9rem .38rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.rungs th, .rungs td { text-align: left; vertical-align: top; }
.rungs td:nth-child(n+5):nth-child(-n+7) { white-space: nowrap; }
.rungs td:nth-child(n+8) { min-width: 11rem; font-size: .85rem; line-height: 1.4; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr));
  gap: 1.6rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); padding: .5rem; }
figcaption { font-size: .88rem; color: var(--soft); margin-top: .45rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { background: var(--panel); padding: .9rem 1.1rem; border-radius: 6px; overflow-x: auto;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --panel: #fff; --accent: #000;
    --bad: #000; --good: #000; --open: #000; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  table { font-size: 8.5pt; }
  .wide { overflow: visible; }
  .figures { grid-template-columns: 1fr 1fr; }
  h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  pre { white-space: pre-wrap; }
  details::details-content { content-visibility: visible; height: auto; }
}
</style>
</head>
<body>
{% macro table(header, rows) %}
<div class="wide"><table>
<thead><tr>{% for cell in header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% endmacro %}
{% macro told(pair) %}
<h3>a = {{ pair.names[0] }} &nbsp;·&nbsp; b = {{ pair.names[1] }}</h3>
<p><span class="{{ pair.verdict }}">{{ pair.verdict }}</span> {{ pair.sentence }}</p>
<div class="wide"><table class="rungs">
<thead><tr>{% for cell in pair.columns %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in pair.rungs %}
<tr><th scope="row">{{ row[0] }}</th><td class="{{ row[1] }}">{{ row[1] }}</td>
{% for cell in row[2:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% for line in pair.beside %}
<p>{{ line }}</p>
{% endfor %}
{% if pair.notes %}
<details{{ " open" if pair.notes|length <= most_notes }}>
<summary>Notes ({{ pair.notes|length }})</summary>
<ul>
{% for note in pair.notes %}
<li>{{ note }}</li>
{% endfor %}
</ul></details>
{% endif %}
{% if pair.said %}
<p>{{ pair.said }}</p>
{% endif %}
{{ table(pair.header, pair.rows) }}
{% endmacro %}
<h1>{{ title }}</h1>
<p class="soft">Twingrad report of {{ date }}</p>
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
{% for group, _ in by_seeds %}
<p><span class="{{ group.verdict }}">{{ group.verdict }}</span> {{ group.sentence }}</p>
{% endfor %}
{% for pair in pairs %}
<p><span class="{{ pair.verdict }}">{{ pair.verdict }}</span>
{{ pair.names[0] }} against {{ pair.names[1] }}. {{ pair.sentence }}</p>
{% endfor %}

<h2>What was run</h2>
<dl>
{% for word, value in what %}
<dt>{{ word }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>

{% if failed %}
<h2 class="bad">Runs that did not finish</h2>
<dl>
{% for name, status, message in failed %}
<dt>{{ name }}</dt><dd class="bad">{{ status }}: {{ message }}</dd>
{% endfor %}
</dl>
{% endif %}

<h2>Results</h2>
{{ table(header, rows) }}
<p class="soft">Losses are the training loss before the first and before the last step. Test scores
are on samples that no run was trained on. A time is the median of the steps after the first.</p>

{% if board[1] %}
<h2>Leaderboard</h2>
{{ table(board[0], board[1]) }}
<p class="soft">The best first. Means over the runs that differ in nothing but their seed, with half
the width of Student's interval.</p>
{% endif %}
{% if equal %}
<h2>Over seeds</h2>
<dl>{% for name, sentence in equal %}<dt>{{ name }}</dt><dd>{{ sentence }}</dd>{% endfor %}</dl>
<p class="soft">Two one-sided tests on the differences of runs with the same seed: equivalent where
the whole interval lies inside the margin, different where it lies outside. A run that diverged is
worse than any that did not.</p>
{% endif %}

{% if any_pairs %}
<h2>Agreement</h2>
{% for pair in pairs %}
{{ told(pair) }}
{% endfor %}
{% for group, covered in by_seeds if covered %}
<details><summary>The ladders of {{ group.title }}: each framework drew its own start, so the
verdict is that over seeds ({{ covered|length }})</summary>
{% for pair in covered %}
{{ told(pair) }}
{% endfor %}
</details>
{% endfor %}
<p class="soft">A rung's distance and bound are norms, relative to that of the tensor, where the
first is largest over the second. Largest differences of parameters over all steps; step 0 is the
start. One ulp is the distance from a number to the next that can be represented.</p>
{% endif %}

{% if images %}
<h2>Pictures</h2>
<div class="figures">
{% for image in images %}
<figure>
<img src="data:image/png;base64,{{ image.data }}" alt="{{ image.name }}: {{ image.caption }}">
<figcaption><strong>{{ image.name }}.</strong> {{ image.caption }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}

{% if versions %}
<h2>Made with</h2>
<dl>
{% for backend, own in versions %}
<dt>{{ backend }}</dt>
<dd>
{% for name, value in own %}
{{ name }} {{ value }}{{ "" if loop.last else "," }}
{% endfor %}
</dd>
{% endfor %}
</dl>
{% endif %}

<h2>Settings</h2>
{% if keys %}
<h3>Where the runs differ</h3>
{{ table(["run"] + keys, differing) }}
{% endif %}
{% for name, run, text in configs %}
<details><summary>{{ name }}{% if run %} <span class="soft">({{ run }})</span>{% endif %}</summary>
<pre>{{ text }}</pre></details>
{% endfor %}
</body>
</html>
"""
