"""The stage ``compare``: recorded runs side by side; trains nothing and loads no framework."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import data, identity, leaderboard, storage
from pipeline.config.schema import parse_recorded
from pipeline.config.types import ConfigError
from pipeline.figures.files import list_saved
from pipeline.figures.parity import draw_parity
from pipeline.figures.runs import draw_comparison
from pipeline.figures.sweeps import draw_sweep
from pipeline.jobs.resolve import make_dataset
from pipeline.naming import name_runs
from pipeline.parity import distance
from pipeline.parity.compared import Compared, list_other_settings
from pipeline.parity.equivalence import Equivalence
from pipeline.parity.evidence import Evidence
from pipeline.parity.ladder import judge
from pipeline.parity.verdict import WORST, Ladder
from pipeline.record.record import RunRecord
from pipeline.report.page import render_page
from pipeline.report.sentences import tell_leftovers, tell_pair_verdicts
from pipeline.report.tables import Table, summarise_pair
from pipeline.stages.coarse import list_coarse
from pipeline.stages.verdict import write_verdict

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
    by_seeds
        The verdicts on the groups whose runs drew their own starts: in them the test over seeds
        takes the place of each pair's ABSTAIN.
    """

    records: Sequence[RunRecord]
    pairs: Sequence[Pair]
    alone: Sequence[RunRecord]
    ladders: Sequence[Ladder]
    folder: Path
    board: Table = ([], [])
    equal: Mapping[str, Equivalence] = dataclasses.field(default_factory=dict)
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    by_seeds: Sequence[leaderboard.SeedVerdict] = ()

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """PASS, FAIL, ABSTAIN or ERROR for each pair, and in words why.

        Of a pair that is judged over seeds, the verdict on its group.
        """
        return tell_pair_verdicts(self.ladders, self.by_seeds)

    @property
    def judges(self) -> bool:
        """Whether there is a pair, a group or an unreadable record to have a verdict on."""
        return bool(self.pairs or self.by_seeds or self.unreadable)

    def largest(self) -> dict[str, float]:
        """Return the largest distances over all pairs, parameters and steps."""
        distances = []
        for a, b in self.pairs:
            with contextlib.suppress(ValueError):
                distances += distance.trajectories(a, b)
        kinds = ("absolute", "relative", "ulp")
        return {
            f"max_{kind}": max(getattr(g, kind) for g in distances) for kind in kinds if distances
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of one table over all pairs, the pair and its verdict in front."""
        header: list[str] = []
        rows: list[list[str]] = []
        for (a, b), (verdict, _) in zip(self.pairs, self.verdicts, strict=True):
            columns, lines = summarise_pair(a, b)
            header = ["pair", "verdict", *columns]
            rows += [[f"{a.label()} against {b.label()}", verdict, *row] for row in lines]
        return header, rows

    @property
    def worst(self) -> str:
        """The worst verdict on a pair or on a group that is judged over seeds.

        ABSTAIN where there is neither; ERROR of what is unreadable.
        """
        verdicts = [verdict for verdict, _ in self.verdicts]
        verdicts += [group.verdict for group in self.by_seeds]
        verdicts += ["ERROR"] if self.unreadable else []
        return max(verdicts, key=WORST.__getitem__, default="ABSTAIN")

    @property
    def exit_code(self) -> int:
        """The worst pair counts: 1 (FAIL, ERROR) over 3 (ABSTAIN) over 0; no pair is ABSTAIN."""
        return {"PASS": 0, "ABSTAIN": 3}.get(self.worst, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``parity.json`` holds: the verdicts, and the runs that have none."""
        about = {
            "format": 2,
            "pairs": [
                {"runs": [str(side.about.get("run", "")) for side in pair], **ladder.to_dict()}
                for pair, ladder in zip(self.pairs, self.ladders, strict=True)
            ],
            "alone": [str(record.about.get("run", record.label())) for record in self.alone],
            "unreadable": dict(self.unreadable),
        }
        if self.by_seeds:
            about["over_seeds"] = [group.to_dict() for group in self.by_seeds]
        return about


def compare(
    records: Sequence[RunRecord],
    *,
    folder: Path,
    title: str,
    formats: Sequence[str],
    rtol: float | None,
    atol: float | None,
    accept: Mapping[str, str] | None = None,
    precision: str = "fail",
    evidence: Callable[[RunRecord, RunRecord], Evidence | None] = lambda a, b: None,
    hint: str = "",
    margin: float | None = None,
    notes: Sequence[str] = (),
    unreadable: Mapping[str, str] | None = None,
    together: bool = False,
    command: str = "",
    address: str = "",
) -> Comparison:
    """Pair, judge and draw recorded runs; write ``plots/``, ``report.html``, ``parity.json``.

    Parameters
    ----------
    rtol, atol
        A tolerance that replaces the derived bounds; see `pipeline.parity.ladder.judge`.
    accept, precision
        Known differences, and what a side is that computes in less than its precision; see there.
    evidence
        Returns what a probe measured about a pair, if one did.
    hint
        How to probe, for the pairs that nobody probed.
    margin
        The difference of final scores that counts as none, for the test over seeds; where runs
        drew their own starts, that test is the verdict.
    unreadable
        By run, why its record could not be read.
    together
        Whether two records are a pair whatever they are of.
    command, address
        For the report: the command line that repeats it, and the address below which MLflow shows
        each run by its id.
    """
    unreadable = unreadable or {}
    notes = [*notes, *(f"ERROR: {run} cannot be read: {why}" for run, why in unreadable.items())]
    pairs, alone = paired(records, together=together)
    if alone:
        named = dict(zip(map(id, records), name_runs(records), strict=True))
        notes.append(tell_leftovers([named[id(r)] for r in alone], pairs=len(pairs)))
    ladders = [
        judge(
            a, b, evidence=evidence(a, b), rtol=rtol, atol=atol, accept=accept,
            precision=precision, coarse=list_coarse(a, b), hint=hint,
        )
        for a, b in pairs
    ]  # fmt: skip
    images, unseen = _draw_data_sets(
        records, pairs=pairs, ladders=ladders, folder=folder / "plots", formats=formats
    )
    notes += unseen
    board: Table = ([], [])
    by_seeds = leaderboard.seed_verdicts(
        records, pairs=pairs, ladders=[ladder.verdict for ladder in ladders], margin=margin
    )
    equal = {group.title: group.test for group in by_seeds if group.test is not None}
    if len(records) > 2:
        board = leaderboard.leaderboard(records)
        equal = dict(leaderboard.over_seeds(records, margin=margin)) if margin else {}
        images = list_saved(draw_sweep(records), folder / "plots", formats=formats) | images
    text = render_page(
        records, pairs=pairs, ladders=ladders, images=images, title=title, notes=notes,
        board=board, equal=equal, by_seeds=by_seeds, command=command, address=address,
    )  # fmt: skip
    storage.write_atomic(folder / "report.html", lambda file: file.write(text.encode()))
    result = Comparison(
        records=records, pairs=pairs, alone=alone, ladders=ladders, folder=folder, board=board,
        equal=equal, unreadable=unreadable, by_seeds=by_seeds,
    )  # fmt: skip
    verdicts = json.dumps(result.to_dict(), indent=1, allow_nan=False)
    storage.write_atomic(folder / "parity.json", lambda file: file.write(verdicts.encode()))
    if len(pairs) == 1 and "pair" in pairs[0][0].about:
        write_verdict(result, folder / "verdict.json")
    return result


def _draw_data_sets(
    records: Sequence[RunRecord],
    *,
    pairs: Sequence[Pair],
    ladders: Sequence[Ladder],
    folder: Path,
    formats: Sequence[str],
) -> tuple[dict[str, bytes], list[str]]:
    """Draw the runs and pairs of each data set; return PNGs by name, and notes on what has none.

    Of several data sets each has a folder of its own, and its pictures the digest in their names.
    """
    groups = by_data(records)
    drawn = _choose_drawn(groups, pairs, ladders)
    notes = []
    if len(drawn) < len(groups):
        notes.append(
            f"Pictures of {len(drawn)} of {len(groups)} data sets: of those that differ by their "
            f"seed alone {_DRAWN}, the worst verdicts first."
        )
    images: dict[str, bytes] = {}
    for digest in drawn:
        judged = [
            (pair, ladder)
            for pair, ladder in zip(pairs, ladders, strict=True)
            if pair[0].about["data"]["digest"] == digest
        ]
        dataset = remade(groups[digest][0])
        if dataset is None:
            notes.append(f"The data {digest[:8]} cannot be made here: no pictures of it.")
        figures = draw_comparison(groups[digest], dataset, pairs=[pair for pair, _ in judged])
        figures |= draw_parity(judged)
        if len(groups) == 1:
            images |= list_saved(figures, folder, formats=formats)
        else:
            saved = list_saved(figures, folder / digest[:8], formats=formats)
            images |= {f"{name} ({digest[:8]})": image for name, image in saved.items()}
    return images, notes


def _choose_drawn(
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
    drawn = [sorted(digests, key=lambda d: -worst[d])[:_DRAWN] for digests in like.values()]
    return [digest for digest in groups if any(digest in digests for digests in drawn)]


def may_be_probed(a: RunRecord, b: RunRecord) -> bool:
    """Whether two runs differ in their backend and its machine alone, on the same data."""
    same_data = a.about["data"]["digest"] == b.about["data"]["digest"]
    return same_data and not list_other_settings(Compared(a=a, b=b))


def has_ended(record: RunRecord) -> bool:
    """Whether a run finished, or ended because its loss was not finite: then it can be judged."""
    loss = record.arrays.get("loss", np.empty(0))
    diverged = len(loss) > 0 and not np.isfinite(loss[-1])
    return record.about["status"] == "FINISHED" or (
        record.about["status"] == "FAILED" and bool(diverged)
    )


def _but_backend(record: RunRecord) -> tuple[str, str]:
    """Return what a run shares with its twins: everything that decides numbers but the backend."""
    return identity.pair_key(record.config, record.about["data"]["digest"])


def paired(
    records: Sequence[RunRecord], *, together: bool = False
) -> tuple[list[Pair], list[RunRecord]]:
    """Return all pairs, each backend against each, and the runs that have no partner.

    Of several runs of one job that finished or diverged the newest counts. `together` makes two
    records a pair whatever they are of.
    """
    if together and len(records) == 2:
        return [(records[0], records[1])], []
    pairs: list[Pair] = []
    alone: list[RunRecord] = []
    finished = [record for record in records if has_ended(record)]
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
    with contextlib.suppress(ConfigError, OSError):
        dataset = make_dataset(parse_recorded(record.config))
        return dataset if dataset.digest == record.about["data"]["digest"] else None
    return None
