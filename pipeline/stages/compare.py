"""The stage ``compare``: recorded runs side by side; trains nothing and loads no framework."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path

import numpy as np

from pipeline import config, data, plots, report, storage
from pipeline.parity import distance
from pipeline.record import RunRecord
from pipeline.stages.check import made

Pair = tuple[RunRecord, RunRecord]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes
    ----------
    pairs
        Runs whose configs differ in ``backend.name`` alone, on the same data.
    alone
        Runs without a partner; they are listed, and judged by nobody.
    verdicts
        PASS, FAIL or ABSTAIN for each pair, and in words why.
    folder
        Where ``report.html`` and ``plots/`` were written.
    """

    records: Sequence[RunRecord]
    pairs: Sequence[Pair]
    alone: Sequence[RunRecord]
    verdicts: Sequence[tuple[str, str]]
    folder: Path

    def largest(self) -> dict[str, float]:
        """Return the largest distances over all pairs, parameters and steps."""
        found = []
        for a, b in self.pairs:
            with contextlib.suppress(ValueError):
                found += distance.trajectories(a, b)
        kinds = ("absolute", "relative", "ulp")
        return {f"max_{kind}": max(getattr(g, kind) for g in found) for kind in kinds if found}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of one table over all pairs, the pair and its verdict in front."""
        header: list[str] = []
        rows: list[list[str]] = []
        for (a, b), (verdict, _) in zip(self.pairs, self.verdicts, strict=True):
            columns, found = report.pair_summary(a, b)
            header = ["pair", "verdict", *columns]
            rows += [[f"{a.label()} against {b.label()}", verdict, *row] for row in found]
        return header, rows

    @property
    def exit_code(self) -> int:
        """The worst pair counts: 1 (FAIL) over 3 (ABSTAIN) over 0; no pair at all is ABSTAIN."""
        found = {verdict for verdict, _ in self.verdicts}
        if "FAIL" in found:
            return 1
        return 3 if "ABSTAIN" in found or not self.pairs else 0


def compare(
    records: Sequence[RunRecord],
    *,
    folder: Path,
    title: str,
    formats: Sequence[str],
    rtol: float | None,
    atol: float | None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Pair, measure and draw recorded runs, and write ``plots/`` and ``report.html``.

    Parameters
    ----------
    rtol, atol
        A pair passes when every parameter at every step is within ``atol + rtol·|b|``, as in
        `numpy.allclose`; one that is None counts as 0. With both None only identical bits pass.
    """
    pairs, alone = paired(records)
    images: dict[str, bytes] = {}
    groups = by_data(records)
    for digest, members in groups.items():
        dataset = remade(members[0])
        inside = [pair for pair in pairs if pair[0].about["data"]["digest"] == digest]
        figures = plots.comparison(members, dataset, pairs=inside)
        part = folder / "plots" if len(groups) == 1 else folder / "plots" / digest[:8]
        plots.save(figures, part, formats=formats)
        images |= {
            name if len(groups) == 1 else f"{name} ({digest[:8]})": plots.png(figure)
            for name, figure in figures.items()
        }
    verdicts = [judged(a, b, rtol=rtol, atol=atol) for a, b in pairs]
    said = [
        f"{a.label()} against {b.label()}: {verdict}, {why}"
        for (a, b), (verdict, why) in zip(pairs, verdicts, strict=True)
    ]
    text = report.render(records, pairs=pairs, images=images, title=title, notes=[*notes, *said])
    storage.write_atomic(folder / "report.html", lambda file: file.write(text.encode()))
    return Comparison(records=records, pairs=pairs, alone=alone, verdicts=verdicts, folder=folder)


def paired(records: Sequence[RunRecord]) -> tuple[list[Pair], list[RunRecord]]:
    """Return all pairs, each backend against each, and the runs that have no partner."""

    def key(record: RunRecord) -> tuple[str, str]:
        without = ("backend.name",)
        return config.digest(record.config, without=without), record.about["data"]["digest"]

    pairs: list[Pair] = []
    alone: list[RunRecord] = []
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    for _, group in groupby(sorted(finished, key=key), key=key):
        newest = {record.backend: record for record in group}
        pairs += list(combinations(newest.values(), 2))
        alone += newest.values() if len(newest) == 1 else ()
    place = {id(record): i for i, record in enumerate(records)}
    ordered = [(a, b) if place[id(a)] < place[id(b)] else (b, a) for a, b in pairs]
    return sorted(ordered, key=lambda pair: place[id(pair[0])]), alone


def judged(
    a: RunRecord, b: RunRecord, *, rtol: float | None, atol: float | None
) -> tuple[str, str]:
    """Judge two trajectories by bits or by a given tolerance, or abstain and say why."""
    try:
        gaps = distance.trajectories(a, b)
    except ValueError as error:
        return "ABSTAIN", str(error)
    if all(found.first is None for found in gaps):
        return "PASS", "identical bits in every parameter at every step"
    if rtol is None and atol is None:
        return "ABSTAIN", "not identical in bits, and no parity.rtol or parity.atol was given"
    left, right = a.named("param"), b.named("param")
    outside = [
        name
        for name in left
        if not np.allclose(
            left[name].astype(np.float64),
            right[name].astype(np.float64),
            rtol=rtol or 0.0,
            atol=atol or 0.0,
        )
    ]
    bound = f"atol {atol or 0:g} + rtol {rtol or 0:g}·|b|"
    if outside:
        return "FAIL", f"{', '.join(outside)} beyond {bound}"
    return "PASS", f"within {bound} at every step"


def by_data(records: Sequence[RunRecord]) -> Mapping[str, list[RunRecord]]:
    """Group runs by the digest of their data, in the order in which they come."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.about["data"]["digest"], []).append(record)
    return groups


def remade(record: RunRecord) -> data.Dataset:
    """Make a run's data again from its config; the digest must be the recorded one."""
    dataset = made(config.parse(record.config))
    if dataset.digest != record.about["data"]["digest"]:
        raise config.ConfigError(
            "compare.runs", record.about.get("run", "?"), "its data can no longer be made"
        )
    return dataset
