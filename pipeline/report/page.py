"""One HTML page about a comparison."""

from __future__ import annotations

import base64
import contextlib
import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from pipeline import identity
from pipeline.leaderboard import SeedVerdict
from pipeline.naming import name_runs
from pipeline.parity import distance
from pipeline.parity.equivalence import Equivalence
from pipeline.parity.verdict import Ladder
from pipeline.record.record import RunRecord
from pipeline.report.sentences import MOST_NOTES, list_covered, tell_beside
from pipeline.report.tables import (
    FEW_RUNS,
    MISSING,
    Pair,
    Table,
    as_cell,
    list_differing,
    measure_gaps,
    summarise_pair,
    summarise_runs,
    tabulate_gaps,
    tabulate_ladder,
)

_CAPTIONS = {
    "curves": "The training losses, a panel for each combination of what was swept; seeds lie over "
    "each other. All panels have one scale; a cross is where a run that diverged leaves it.",
    "sensitivity": "The final test score over each swept setting: a dot a run, and the means over "
    "everything else, joined where the setting is a number. The star is the best run; crosses at "
    "the edge are runs that diverged.",
    "cost": "The final test score over the time that training took, a mark a run. The star is the "
    "best run; crosses at the edge are runs that diverged.",
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
    "distance": "How far each step from equal states takes the two frameworks apart, tensor by "
    "tensor, as a part of the bound that it is judged by: the largest of the tensor's gradient and "
    "value. Above 1 is beyond the bound. How rounding grows over the steps of two free runs is in "
    "ulps, and is no finding.",
    "ladder": "Each tensor's largest distance over its bound on each rung: 1 is at the bound, blue "
    "is within it, orange and framed beyond; = is the same bits, hatched was not judged, and what "
    "is blank has no such tensor. The rows are in the order of the model. Beyond it with a PASS is "
    "rounding at a kink: moved by single roundings the step agrees.",
    "reference": "How far each run's parameters are from those of the reference after each step, "
    "in ulps of the norm of all parameters together. In a pair that passes, what is nearer rounds "
    "better.",
    "ulp_histogram": "What fraction of the parameters' values is how far apart, value by value and "
    "after the start, where the figure ulps has each tensor's farthest; 0 means the same bits. "
    "Both axes are logarithmic.",
}


def render_page(
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
    command: str = "",
    address: str = "",
) -> str:
    """Return the report as one HTML file that needs nothing else: no script or font.

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
    command
        The command line that repeats it.
    address
        Where MLflow shows the experiment's runs, ``…/runs?…``; below it is each run's page.
    """
    named = name_runs(records)
    header, rows = summarise_runs(records)
    if len(rows) <= FEW_RUNS:
        header, *rows = (list(line) for line in zip(header, *rows, strict=True))
    keys = list_differing(records)
    flat = [identity.flatten(record.config) for record in records]
    blocks = [
        _pair(a, b, records=records, named=named) | _verdict(ladder)
        for (a, b), ladder in zip(pairs, ladders, strict=True)
    ]
    covered = list_covered(by_seeds)
    if not address.startswith(("http://", "https://")):
        address = ""
    base, _, query = address.partition("?")
    return _ENVIRONMENT.get_template("page.html.j2").render(
        title=title,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        notes=notes,
        what=_what(records),
        command=command,
        address=address,
        base=base,
        mode=query.partition("&")[0],
        machines=_machines(records),
        board=board,
        equal=[(name, test.sentence()) for name, test in (equal or {}).items()],
        header=header,
        rows=rows,
        any_pairs=bool(blocks),
        pairs=[blocks[i] for i in range(len(blocks)) if i not in covered],
        by_seeds=[(group, [blocks[i] for i in group.covers]) for group in by_seeds],
        images=_embed_images(images),
        most_notes=MOST_NOTES,
        versions=_versions(records),
        failed=_list_failed(records, named=named),
        keys=keys,
        differing=[
            [name, *(as_cell(config.get(key, MISSING)) for key in keys)]
            for name, config in zip(named, flat, strict=True)
        ],
        configs=[
            (name, record.about.get("run"), _config_text(record, keys=keys))
            for name, record in zip(named, records, strict=True)
        ],
    )


def _embed_images(images: Mapping[str, bytes]) -> list[dict[str, str]]:
    """Return each picture's name, its PNG file in base64, and its caption."""
    return [
        {
            "name": name,
            "data": base64.b64encode(image).decode(),
            "caption": _CAPTIONS.get(name.split(" ")[0], name),
        }
        for name, image in images.items()
    ]


def _list_failed(
    records: Sequence[RunRecord], *, named: Sequence[str]
) -> list[tuple[str, str | None, str]]:
    """Return name, status and message of the runs that did not finish."""
    return [
        (name, record.about.get("status"), record.about.get("message") or "no message")
        for name, record in zip(named, records, strict=True)
        if record.about.get("status", "FINISHED") != "FINISHED"
    ]


def _config_text(record: RunRecord, *, keys: Iterable[str]) -> str:
    """Write a config as YAML, the settings in which the runs differ first."""
    flat = identity.flatten(record.config)
    first = [f"# {key}: {as_cell(flat[key])}" for key in keys if key in flat]
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
        values = dict.fromkeys(as_cell(config[key]) for config in flat if key in config)
        if values:
            lines.append((word, ", ".join(values)))
    digests = dict.fromkeys(str(r.about.get("data", {}).get("digest", "")) for r in records)
    if any(digests):
        lines.append(("data digest", ", ".join(digest[:16] for digest in digests if digest)))
    return lines


def _versions(records: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return by backend what its runs were made with; several values are joined."""
    by_backend: dict[str, dict[str, dict[str, None]]] = {}
    for record in records:
        versions = by_backend.setdefault(record.backend, {})
        for name, value in record.about.get("versions", {}).items():
            versions.setdefault(name, {})[str(value) or MISSING] = None
    return [
        (backend, [(name, ", ".join(values)) for name, values in versions.items()])
        for backend, versions in by_backend.items()
        if versions
    ]


def _machines(records: Sequence[RunRecord]) -> list[str]:
    """Return on what the runs were made: each processor, and what computed where that is known."""
    machines: dict[str, None] = {}
    for record in records:
        known = record.about.get("environment", {})
        cpu, device = (str(known.get(name) or "") for name in ("cpu", "device"))
        if cpu:
            machines[cpu if device in ("", "cpu") else f"{cpu}, device {device}"] = None
    return list(machines)


def _pair(
    a: RunRecord, b: RunRecord, *, records: Sequence[RunRecord], named: Sequence[str]
) -> dict[str, Any]:
    """Return a pair's heading, its table, and what the table says in one sentence."""
    name_of = {id(record): name for record, name in zip(records, named, strict=True)}
    gaps: list[distance.Gap] = []
    with contextlib.suppress(ValueError):
        gaps = measure_gaps(a, b)
    header, rows = tabulate_gaps(gaps, a) if gaps else summarise_pair(a, b)
    sentence, everything = "", "parameter at every step"
    if gaps and not (a.named("param") and b.named("param")):
        everything = "loss and in every parameter at the end"
        sentence = (
            "No parameters were kept step by step (record.trace=full keeps them): compared are the "
            "loss at each step and the parameters at the end. "
        )
    differing = [gap for gap in gaps if gap.first is not None]
    if gaps and not differing:
        sentence += f"Identical bits in every {everything}."
    elif differing:
        farthest = max(differing, key=lambda gap: gap.ulp)
        first = min(gap.first for gap in differing if gap.first is not None)
        sentence += (
            f"The first bit differs at step {first}; the farthest apart is {farthest.name}, by "
            f"{farthest.ulp:.15g} ulp{'s' * (farthest.ulp != 1)} at step {farthest.step}."
        )
    heading = [name_of.get(id(record), record.label()) for record in (a, b)]
    return {"names": heading, "header": header, "rows": rows, "said": sentence}


def _verdict(ladder: Ladder) -> dict[str, Any]:
    """Return what the template says of a pair's ladder."""
    header, rungs = tabulate_ladder(ladder)
    return {
        "verdict": ladder.verdict,
        "sentence": ladder.sentence().removeprefix("PASS "),
        "columns": header,
        "rungs": rungs,
        "beside": tell_beside(ladder),
        "notes": ladder.notes,
    }


# The policy in the template's head makes a browser refuse whatever is not in that one file.
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
