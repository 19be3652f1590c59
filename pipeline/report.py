"""Records as tables and as one HTML file that can be sent to somebody; draws nothing itself."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import yaml

from pipeline import config
from pipeline.parity import distance
from pipeline.plots import names
from pipeline.record import RunRecord

Pair = tuple[RunRecord, RunRecord]
Table = tuple[list[str], list[list[str]]]

MISSING = "–"
_MOST_SCALARS = 8  # models up to this size have their parameters in the table
_DIGITS = {"float32": 9, "float64": 17}  # what it takes to read back the same bits
_FEW_RUNS = 4  # up to this many are put side by side, which reads better than wide rows

_CAPTIONS = {
    "samples": "The training samples.",
    "fit": "The training samples with each run's learned line. The least-squares line is drawn "
    "longer than the learned ones, so that its ends show where they coincide.",
    "loss": "The training loss before each step, on a logarithmic axis. Dashed: what the noise "
    "alone leaves on average.",
    "path": "The way of the two parameters over contours of the training loss. The contours are "
    "log-spaced and belong to the first run's loss.",
    "residuals": "What is left on test samples, which no run was trained on, and how it is "
    "distributed.",
    "ulps": "How many representable numbers lie between the two runs' parameters at each step; "
    "0 means the same bits. The axis is linear up to 1 and logarithmic above.",
}


def summary(records: Sequence[RunRecord]) -> Table:
    """Return header and rows of a table of runs, a row a run.

    Parameters of small models are written with the digits that tell their bits (9 for float32, 17
    for float64), with their distances from the true values and from least squares where those are
    known. The test MSE is on samples that were not trained on. What a run lacks is ``–``.
    """
    parameters = [_parameters(record) for record in records]
    truths = [_scalars(_facts(record).get("truth")) for record in records]
    optima = [_scalars(record.about.get("least_squares")) for record in records]
    keys = list(dict.fromkeys(key for own in parameters for key in own))
    header = ["run"]
    columns = [names(records)]
    for key in keys:
        own = [values.get(key) for values in parameters]
        header.append(key)
        columns.append([_exact(value) for value in own])
        for sign, known in (("true", truths), ("least squares", optima)):
            goals = [values.get(key) for values in known]
            if any(goal is not None for goal in goals):
                header.append(f"|{key} − {sign}|")
                columns.append([_apart(*both) for both in zip(own, goals, strict=True)])
    losses = [record.arrays.get("loss", np.empty(0)) for record in records]
    times = [record.about.get("time", {}).get("step_us") for record in records]
    scores = [record.about.get("scores", {}).get("mse") for record in records]
    header += ["first loss", "last loss", "test MSE", "µs/step"]
    columns += [
        [_number(loss[0], ".6g") if len(loss) else MISSING for loss in losses],
        [_number(loss[-1], ".6g") if len(loss) else MISSING for loss in losses],
        [_number(score, ".6g") for score in scores],
        [_number(time, ".1f") for time in times],
    ]
    return header, [list(row) for row in zip(*columns, strict=True)]


def pair_summary(a: RunRecord, b: RunRecord) -> Table:
    """Return header and rows of a table of two runs' distances, a row a parameter.

    The three largest differences are taken over all steps, each on its own; the last column is the
    step of the largest in ulps. Runs that cannot be compared give one row that says why.
    """
    header = ["parameter", "first difference", "max |a − b|", "max relative", "max ulps", "at step"]
    try:
        gaps = distance.trajectories(a, b)
    except ValueError as error:
        return header, [[f"cannot be compared: {error}", *[MISSING] * 5]]
    rows = [
        [
            gap.name,
            "never" if gap.first is None else f"step {gap.first}",
            _number(gap.absolute, ".3g"),
            _number(gap.relative, ".3g"),
            _number(gap.ulp, ".15g"),
            MISSING if gap.first is None else str(gap.step),
        ]
        for gap in gaps
    ]
    return header, rows


def render(
    records: Sequence[RunRecord],
    *,
    pairs: Sequence[Pair],
    images: Mapping[str, bytes],
    title: str,
    notes: Sequence[str],
) -> str:
    """Return the report as one HTML file that needs nothing else: no script, link or font.

    Parameters
    ----------
    records
        The runs, in the order of the table.
    pairs
        Each gets a table of its own.
    images
        PNG files by name; a name may carry a suffix in brackets (``fit (1a2b3c4d)``).
    title
        The heading.
    notes
        Sentences put right under it.
    """
    named = names(records)
    header, rows = summary(records)
    if len(rows) <= _FEW_RUNS:
        header, *rows = (list(line) for line in zip(header, *rows, strict=True))
    keys = _differing(records)
    flat = [config.flatten(record.config) for record in records]
    return _ENVIRONMENT.from_string(_TEMPLATE).render(
        title=title,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        notes=notes,
        what=_what(records),
        header=header,
        rows=rows,
        pairs=[_pair(a, b, records=records, named=named) for a, b in pairs],
        images=[
            {
                "name": name,
                "data": base64.b64encode(image).decode(),
                "caption": _CAPTIONS.get(name.split(" ")[0], name),
            }
            for name, image in images.items()
        ],
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
    """Write a number so that its bits can be read back."""
    return MISSING if value is None else f"{value:.{_DIGITS.get(str(value.dtype), 17)}g}"


def _apart(value: Any, goal: Any) -> str:
    if value is None or goal is None:
        return MISSING
    return _number(abs(float(value) - float(goal)), ".3g")


def _number(value: Any, form: str) -> str:
    return MISSING if value is None else format(float(value), form)


def _shown(value: Any) -> str:
    """Write a setting as YAML does."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _differing(records: Sequence[RunRecord]) -> list[str]:
    """Return the dotted keys of the settings in which the runs differ."""
    flat = [config.flatten(record.config) for record in records]
    keys = dict.fromkeys(key for own in flat for key in own)
    return [k for k in keys if any(own.get(k, MISSING) != flat[0].get(k, MISSING) for own in flat)]


def _config_text(record: RunRecord, *, keys: Iterable[str]) -> str:
    """Write a config as YAML, the settings in which the runs differ first."""
    flat = config.flatten(record.config)
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
    flat = [config.flatten(record.config) for record in records]
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
    header, rows = pair_summary(a, b)
    try:
        gaps = distance.trajectories(a, b)
    except ValueError:
        gaps = []
    differing = [gap for gap in gaps if gap.first is not None]
    verdict = ""
    if gaps and not differing:
        verdict = "Identical bits in every parameter at every step."
    elif differing:
        farthest = max(differing, key=lambda gap: gap.ulp)
        first = min(gap.first for gap in differing if gap.first is not None)
        verdict = (
            f"The first bit differs at step {first}; the farthest apart is {farthest.name}, by "
            f"{farthest.ulp:.15g} ulps at step {farthest.step}."
        )
    heading = [name.get(id(record), record.label()) for record in (a, b)]
    return {"names": heading, "header": header, "rows": rows, "verdict": verdict}


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
  --page: #ffffff; --panel: #f5f7f8; --accent: #0b7285; --bad: #a50f15; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a0a7ae; --line: #3a4046;
  --page: #16191c; --panel: #1f2327; --accent: #4cc9e0; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 2px solid var(--accent); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.soft { color: var(--soft); }
.bad { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.4rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .38rem .9rem .38rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
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
    --bad: #000; color-scheme: light; }
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
<h1>{{ title }}</h1>
<p class="soft">Twingrad report of {{ date }}</p>
{% for note in notes %}
<p>{{ note }}</p>
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
<p class="soft">Losses are the training loss before the first and before the last step. The test
MSE is on fresh samples. A time is the median of the steps after the first.</p>

{% if pairs %}
<h2>Agreement</h2>
{% for pair in pairs %}
<h3>a = {{ pair.names[0] }} &nbsp;·&nbsp; b = {{ pair.names[1] }}</h3>
{% if pair.verdict %}
<p>{{ pair.verdict }}</p>
{% endif %}
{{ table(pair.header, pair.rows) }}
{% endfor %}
<p class="soft">Largest differences over all steps; step 0 is the start. One ulp is the distance
from a number to the next that can be represented.</p>
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
