"""The stage ``compare``: recorded runs side by side; trains nothing and loads no framework."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path

from pipeline import config, data, leaderboard, plots, report, storage
from pipeline.parity import distance
from pipeline.parity.equivalence import Equivalence
from pipeline.parity.ladder import WORST, Evidence, Ladder, judge
from pipeline.record import RunRecord
from pipeline.stages.check import made

Pair = tuple[RunRecord, RunRecord]

_DRAWN = 3  # of data sets that differ by their seed alone, this many have pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes
    ----------
    pairs
        Runs whose configs differ in ``backend.name`` alone, on the same data; or the two that were
        named.
    alone
        Runs without a partner; they are listed, and judged by nobody.
    unreadable
        By run, why its record cannot be read: cut short, altered, or of a newer version.
    ladders
        The verdict on each pair, rung by rung.
    folder
        Where ``report.html`` and ``plots/`` were written.
    board, equal
        The leaderboard, and the tests of backends over seeds; of three runs or more.
    """

    records: Sequence[RunRecord]
    pairs: Sequence[Pair]
    alone: Sequence[RunRecord]
    ladders: Sequence[Ladder]
    folder: Path
    board: report.Table = ([], [])
    equal: Mapping[str, Equivalence] = dataclasses.field(default_factory=dict)
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """PASS, FAIL, ABSTAIN or ERROR for each pair, and in words why."""
        return [(ladder.verdict, ladder.sentence()) for ladder in self.ladders]

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
    def worst(self) -> str:
        """The worst pair's verdict; ABSTAIN where there is no pair, ERROR of what is unreadable."""
        verdicts = [verdict for verdict, _ in self.verdicts]
        verdicts += ["ERROR"] if self.unreadable else []
        return max(verdicts, key=WORST.__getitem__, default="ABSTAIN")

    @property
    def exit_code(self) -> int:
        """The worst pair counts: 1 (FAIL, ERROR) over 3 (ABSTAIN) over 0; no pair is ABSTAIN."""
        return {"PASS": 0, "ABSTAIN": 3}.get(self.worst, 1)


def compare(
    records: Sequence[RunRecord],
    *,
    folder: Path,
    title: str,
    formats: Sequence[str],
    rtol: float | None,
    atol: float | None,
    evidence: Callable[[RunRecord, RunRecord], Evidence | None] = lambda a, b: None,
    hint: str = "",
    margin: float | None = None,
    notes: Sequence[str] = (),
    unreadable: Mapping[str, str] | None = None,
    together: bool = False,
) -> Comparison:
    """Pair, judge and draw recorded runs; write ``plots/``, ``report.html``, ``parity.json``.

    Parameters
    ----------
    rtol, atol
        A tolerance that replaces the derived bounds; see `pipeline.parity.ladder.judge`.
    evidence
        Returns what a probe measured about a pair, if one did.
    hint
        How to probe, for the pairs that nobody probed.
    margin
        The difference of final scores that counts as none, for the test over seeds.
    unreadable
        By run, why its record could not be read.
    together
        Whether two records are a pair whatever they are of.
    """
    unreadable = unreadable or {}
    notes = [*notes, *(f"ERROR: {run} cannot be read: {why}" for run, why in unreadable.items())]
    pairs, alone = paired(records, together=together)
    if alone:
        named = dict(zip(map(id, records), plots.names(records), strict=True))
        notes.append(report.leftovers([named[id(r)] for r in alone], pairs=len(pairs)))
    ladders = [
        judge(a, b, evidence=evidence(a, b), rtol=rtol, atol=atol, hint=hint) for a, b in pairs
    ]
    images: dict[str, bytes] = {}
    groups = by_data(records)
    drawn = _drawn(groups, pairs, ladders)
    if len(drawn) < len(groups):
        notes.append(
            f"Pictures of {len(drawn)} of {len(groups)} data sets: of those that differ by their "
            f"seed alone {_DRAWN}, the worst verdicts first."
        )
    for digest in drawn:
        members = groups[digest]
        dataset = remade(members[0])
        if dataset is None:
            notes.append(f"The data {digest[:8]} cannot be made here: no pictures of it.")
        judged = [
            (pair, ladder)
            for pair, ladder in zip(pairs, ladders, strict=True)
            if pair[0].about["data"]["digest"] == digest
        ]
        figures = {}
        if dataset is not None:
            figures = plots.comparison(members, dataset, pairs=[pair for pair, _ in judged])
        figures |= plots.parity(judged)
        part = folder / "plots" if len(groups) == 1 else folder / "plots" / digest[:8]
        images |= {
            name if len(groups) == 1 else f"{name} ({digest[:8]})": image
            for name, image in plots.saved(figures, part, formats=formats).items()
        }
    board: report.Table = ([], [])
    equal: dict[str, Equivalence] = {}
    if len(records) > 2:
        board = leaderboard.leaderboard(records)
        equal = dict(leaderboard.over_seeds(records, margin=margin)) if margin else {}
        images = plots.saved(plots.sweep(records), folder / "plots", formats=formats) | images
    text = report.render(
        records, pairs=pairs, ladders=ladders, images=images, title=title, notes=notes,
        board=board, equal=equal,
    )  # fmt: skip
    storage.write_atomic(folder / "report.html", lambda file: file.write(text.encode()))
    about = {
        "format": 1,
        "pairs": [
            {"runs": [str(side.about.get("run", "")) for side in pair], **ladder.to_dict()}
            for pair, ladder in zip(pairs, ladders, strict=True)
        ],
        "alone": [str(record.about.get("run", record.label())) for record in alone],
        "unreadable": dict(unreadable),
    }
    found = json.dumps(about, indent=1, allow_nan=False)
    storage.write_atomic(folder / "parity.json", lambda file: file.write(found.encode()))
    return Comparison(
        records=records, pairs=pairs, alone=alone, ladders=ladders, folder=folder, board=board,
        equal=equal, unreadable=unreadable,
    )  # fmt: skip


def _drawn(
    groups: Mapping[str, list[RunRecord]], pairs: Sequence[Pair], ladders: Sequence[Ladder]
) -> list[str]:
    """Return which data sets have pictures: of many seeds a few, the worst verdicts first."""
    worst: dict[str, int] = dict.fromkeys(groups, -1)
    for (a, _), ladder in zip(pairs, ladders, strict=True):
        digest = a.about["data"]["digest"]
        worst[digest] = max(worst[digest], WORST[ladder.verdict])
    like: dict[str, list[str]] = {}
    for digest, members in groups.items():
        settings = json.dumps(members[0].config["data"], sort_keys=True, default=str)
        like.setdefault(settings, []).append(digest)
    kept = [sorted(found, key=lambda d: -worst[d])[:_DRAWN] for found in like.values()]
    return [digest for digest in groups if any(digest in found for found in kept)]


def alike(a: RunRecord, b: RunRecord) -> bool:
    """Whether two runs differ in nothing but their backend."""
    return _but_backend(a) == _but_backend(b)


def _but_backend(record: RunRecord) -> tuple[str, str]:
    without = ("backend.name",)
    return config.digest(record.config, without=without), record.about["data"]["digest"]


def paired(
    records: Sequence[RunRecord], *, together: bool = False
) -> tuple[list[Pair], list[RunRecord]]:
    """Return all pairs, each backend against each, and the runs that have no partner.

    Of several finished runs of one job the newest counts. `together` makes two records a pair
    whatever they are of.
    """
    if together and len(records) == 2:
        return [(records[0], records[1])], []
    pairs: list[Pair] = []
    alone: list[RunRecord] = []
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    for _, same in groupby(sorted(finished, key=_but_backend), key=_but_backend):
        group = list(same)
        newest = {record.backend: record for record in group}
        pairs += list(combinations(newest.values(), 2))
        older = [record for record in group if record is not newest[record.backend]]
        alone += group if len(newest) == 1 else older
    place = {id(record): i for i, record in enumerate(records)}
    ordered = [(a, b) if place[id(a)] < place[id(b)] else (b, a) for a, b in pairs]
    return sorted(ordered, key=lambda pair: place[id(pair[0])]), alone


def by_data(records: Sequence[RunRecord]) -> Mapping[str, list[RunRecord]]:
    """Group runs by the digest of their data, in the order in which they come."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.about["data"]["digest"], []).append(record)
    return groups


def remade(record: RunRecord) -> data.Dataset | None:
    """Make a run's data again from its config; None where that gives other data or none."""
    with contextlib.suppress(config.ConfigError, OSError):
        dataset = made(config.parse(record.config))
        return dataset if dataset.digest == record.about["data"]["digest"] else None
    return None
