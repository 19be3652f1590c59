"""A sweep's records as tables: who scores best, what was swept, and what it did to the score."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline import identity, metrics
from pipeline.parity.equivalence import Equivalence, equivalence
from pipeline.record.record import RunRecord

Table = tuple[list[str], list[list[str]]]
_BACKEND, _OPTIMIZER = "backend.name", "optimizer.name"
_SCORES = ("accuracy", "mse", "log_loss", "mae")  # in the order in which they decide
_NOT_FINITE = re.compile(r"the loss became \S+ at step \d+")  # what NonFiniteLossError says


def score_of(records: Sequence[RunRecord]) -> str | None:
    """Return the score that all runs have and that decides; None if there is none."""
    kinds = [set(record.about.get("scores", {})) for record in records]
    common = set.intersection(*kinds) if kinds else set()
    return next((name for name in _SCORES if name in common), None)


def swept(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the settings in which the runs differ, each run's value.

    Only those that every run has: what comes and goes with another option is told by that option.
    """
    flat = [identity.flatten(record.config) for record in records]
    keys = [key for key in (flat[0] if flat else {}) if identity.decides_numbers(key)]
    values = {
        key: [config[key] for config in flat]
        for key in keys
        if all(key in config for config in flat)
    }
    return {key: v for key, v in values.items() if any(each != v[0] for each in v)}


def groups(records: Sequence[RunRecord]) -> dict[tuple[str, ...], list[RunRecord]]:
    """Return the runs that differ in their seed alone, by what tells them from the others."""
    keys = _columns(records)
    by_settings: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        flat = identity.flatten(record.config)
        by_settings[tuple(str(flat.get(key, "–")) for key in keys)].append(record)
    return dict(by_settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Finished runs that differ in their seed alone.

    Attributes
    ----------
    settings
        What tells them from the others, in the order of `leaderboard`'s columns.
    runs
        Those that finished.
    mean, reach
        Of their scores: the mean, and half of the interval around it, NaN of one run.
    seconds
        The median of their times of training.
    lost
        How many more runs of these settings did not finish.
    """

    settings: tuple[str, ...]
    runs: Sequence[RunRecord]
    mean: float
    reach: float
    seconds: float
    lost: int


def rank_groups(records: Sequence[RunRecord], *, score: str, level: float = 0.95) -> list[Group]:
    """Return the groups of finished runs, the best first; `score` is one that all of them have.

    A group that lost a run comes after those that lost none: the score of a run that diverged is
    worse than any. Of equal scores the others decide.
    """
    from scipy import stats

    others = [name for name in _SCORES if name != score]
    ranked = []
    for settings, members in groups(records).items():
        runs = [run for run in members if run.about.get("status") == "FINISHED"]
        if not runs:
            continue
        scores = np.array([run.about["scores"][score] for run in runs], dtype=np.float64)
        times = [run.about.get("time", {}).get("train_s", np.nan) for run in runs]
        reach = np.nan
        if len(scores) > 1:
            factor = stats.t.ppf((1 + level) / 2, len(scores) - 1)
            spread = scores.std(ddof=1) if np.ptp(scores) else 0.0  # not the rounding of the mean
            reach = float(factor * spread / np.sqrt(len(scores)))
        ranked.append(
            Group(
                settings=settings, runs=runs, mean=float(scores.mean()), reach=reach,
                seconds=float(np.median(times)), lost=len(members) - len(runs),
            )
        )  # fmt: skip
    ranked.sort(key=lambda group: (group.lost > 0, *(_rank(group, n) for n in (score, *others))))
    return ranked


def _rank(group: Group, score: str) -> float:
    """Return a number that is the smaller, the better a group's mean score is."""
    values = [run.about["scores"].get(score, math.nan) for run in group.runs]
    mean = float(np.mean(values))
    return math.inf if math.isnan(mean) else (-mean if score in metrics.HIGHER else mean)


def _columns(records: Sequence[RunRecord]) -> list[str]:
    """Return the settings that a leaderboard has a column of."""
    keys = (_BACKEND, _OPTIMIZER, *swept(records))
    return list(dict.fromkeys(key for key in keys if key != "seed"))


def find_best(records: Sequence[RunRecord]) -> tuple[str, Group] | None:
    """Return the score that decides and the group with the best one; None where there is none.

    Settings of the data are not ranked: with them the test samples, or the units of a score, are
    others.
    """
    finished = [record for record in records if record.about.get("status") == "FINISHED"]
    name = score_of(finished)
    if name is None or any(key.startswith("data.") for key in swept(records)):
        return None
    return name, rank_groups(records, score=name)[0]


def tell_best(records: Sequence[RunRecord]) -> str:
    """Return the best of what was swept, its score and its run; empty where that says nothing.

    Backends and seeds alone are not ranked: what they score is the pair's matter.
    """
    found, differing = find_best(records), swept(records)
    if found is None or not set(differing) - {_BACKEND, "seed"}:
        return ""
    name, best = found
    values = dict(zip(_columns(records), best.settings, strict=True))
    told = [f"{key.removesuffix('.name')}={value}" for key, value in values.items()
            if key in differing and key != _BACKEND]  # fmt: skip
    seeds = f"{len(best.runs)} of {len(best.runs) + best.lost}" if best.lost else len(best.runs)
    over = f", mean of {seeds} seeds" if len(best.runs) + best.lost > 1 else ""
    run = "" if over else f", run {best.runs[0].about.get('run')}"
    return f"best {' '.join(told)} (eval/{name} {best.mean:.6g}{over}){run}"


def leaderboard(records: Sequence[RunRecord], *, level: float = 0.95) -> Table:
    """Return a table of groups, the best first: mean ± half an interval over seeds, and time.

    The interval is Student's at `level`; of fewer than two runs there is none.
    """
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    name = score_of(finished)
    if name is None:
        return [], []
    header = [*_columns(records), name, f"± ({level:.0%})", "runs", "train s"]
    rows = []
    for group in rank_groups(records, score=name, level=level):
        reach = "–" if np.isnan(group.reach) else f"{group.reach:.2g}"
        numbers = [f"{group.mean:.6g}", reach, str(len(group.runs)), f"{group.seconds:.3g}"]
        rows.append([*group.settings, *numbers])
    return header, rows


def differences(records: Sequence[RunRecord]) -> Table:
    """Return a table of only those settings in which the runs differ, a row a run, if any do."""
    differing = swept(records)
    rows = [[str(values[i]) for values in differing.values()] for i in range(len(records))]
    return list(differing), rows if differing else []


def drew_own_start(record: RunRecord) -> bool:
    """Whether a run's first weights are its framework's own draw, which no other one can repeat."""
    return bool(record.config.get("model", {}).get("init") == "framework")


def diverged(record: RunRecord) -> bool:
    """Whether a run ended because its loss was not finite.

    A run that was killed, or failed for another reason, did not diverge: nobody knows its score.
    """
    message = str(record.about.get("message", ""))
    return record.about["status"] == "FAILED" and _NOT_FINITE.match(message) is not None


def seed_group_key(a: RunRecord, b: RunRecord) -> tuple[str, frozenset[str]] | None:
    """Return which `SeedGroup` two runs belong to; None if their settings are not the same."""
    without = (_BACKEND, "seed")
    one, other = (identity.config_digest(side.config, without=without) for side in (a, b))
    return (one, frozenset((a.backend, b.backend))) if one == other else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """The runs of two backends that are equal but for backend and seed.

    Attributes
    ----------
    score
        The final score that is compared; None if every run that ended diverged.
    settings
        What was swept, as it is in this group; empty if nothing but backends and seeds was.
    digest
        Of the config without backend and seed.
    runs
        By backend, the first of the two in alphabetical order, and seed, the run that counts.
    """

    score: str | None
    settings: str
    digest: str
    runs: Mapping[str, Mapping[int, RunRecord]]

    @property
    def key(self) -> tuple[str, frozenset[str]]:
        """The `seed_group_key` of the pairs in this group."""
        return self.digest, frozenset(self.runs)

    @property
    def seeds(self) -> list[int]:
        """The seeds that one side or both ran."""
        return sorted({seed for by_seed in self.runs.values() for seed in by_seed})

    @property
    def own_starts(self) -> bool:
        """Whether each run drew its own start."""
        return any(
            drew_own_start(run) for by_seed in self.runs.values() for run in by_seed.values()
        )

    def title(self, over: str = "") -> str:
        """Return what is compared."""
        sides = " and ".join(self.runs)
        return (
            f"{self.score or 'score'} of {sides}"
            + (f" ({self.settings})" if self.settings else "")
            + over
        )

    def test(self, margin: float) -> Equivalence:
        """Test the two sides' final scores against each other, seed by seed."""
        scores: dict[str, list[float]] = {side: [] for side in self.runs}
        unpaired: dict[str, list[int]] = defaultdict(list)
        for seed in self.seeds:
            runs = {side: by_seed.get(seed) for side, by_seed in self.runs.items()}
            why = _unpaired(runs)
            if why:
                unpaired[why].append(seed)
                continue
            for side, run in runs.items():
                assert run is not None
                known = run.about.get("scores", {})
                scores[side].append(math.nan if diverged(run) else float(known[self.score]))
        a, b = self.runs
        return equivalence(
            scores[a], scores[b], margin=margin, names=(a, b), unpaired=unpaired,
            higher_is_better=self.score in metrics.HIGHER,
        )  # fmt: skip


def _ended(run: RunRecord) -> bool:
    """Whether a run has a score, or has none because it diverged."""
    return run.about["status"] == "FINISHED" or diverged(run)


def _unpaired(runs: Mapping[str, RunRecord | None]) -> str:
    """Say why the runs of one seed are no pair; nothing if they are one."""
    reasons = [
        f"{side} {'has no run' if run is None else 'did not finish'}"
        for side, run in runs.items()
        if run is None or not _ended(run)
    ]
    digests = {run.about.get("data", {}).get("digest") for run in runs.values() if run is not None}
    return " and ".join(reasons) or ("they have other data" if len(digests) > 1 else "")


def seed_groups(records: Sequence[RunRecord]) -> list[SeedGroup]:
    """Return each two backends' runs that are equal but for backend and seed.

    Of several runs of one job the newest that ended counts. A group of which no run ended, or whose
    runs have no score in common, is left out.
    """
    cells: dict[str, dict[str, dict[int, RunRecord]]] = defaultdict(lambda: defaultdict(dict))
    labels: dict[str, str] = {}
    differing = swept(records)
    for i, record in enumerate(records):
        digest = identity.config_digest(record.config, without=(_BACKEND, "seed"))
        by_seed, seed = cells[digest][record.backend], int(record.config["seed"])
        if seed not in by_seed or _ended(record) or not _ended(by_seed[seed]):
            by_seed[seed] = record
        settings = [f"{k}={v[i]}" for k, v in differing.items() if k not in (_BACKEND, "seed")]
        labels[digest] = ", ".join(settings)
    counted = Counter(labels.values())
    for digest, label in labels.items():  # settings that only some runs have are not among them
        if counted[label] > 1:
            labels[digest] = f"{label}, config {digest[:8]}".removeprefix(", ")
    groups_of_two = []
    for digest, by_backend in cells.items():
        for sides in itertools.combinations(sorted(by_backend), 2):
            runs = {side: dict(by_backend[side]) for side in sides}
            every = [run for by_seed in runs.values() for run in by_seed.values()]
            finished = [run for run in every if run.about["status"] == "FINISHED"]
            score = score_of(finished)
            if score is not None or (not finished and any(map(diverged, every))):
                groups_of_two.append(
                    SeedGroup(score=score, settings=labels[digest], digest=digest, runs=runs)
                )
    return groups_of_two


def over_seeds(records: Sequence[RunRecord], *, margin: float) -> Mapping[str, Equivalence]:
    """Test each two backends' final scores against each other, over the seeds of both.

    A run that diverged is worse than any that did not; the seeds without a pair are counted. A
    group without a second seed is left out, unless each run drew its own start: then nothing else
    judges it.
    """
    return {
        group.title(): group.test(margin)
        for group in seed_groups(records)
        if len(group.seeds) > 1 or group.own_starts
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedVerdict:
    """The verdict on runs that each drew their own start: one on a group, and not on each pair.

    Attributes
    ----------
    title
        What was compared, as `over_seeds` has it.
    verdict, sentence
        PASS, FAIL or ABSTAIN, and the outcome of the test in words.
    covers
        Positions of the pairs, among those that were compared, of which this is the verdict.
    test
        The test over seeds; None where no margin was given.
    """

    title: str
    verdict: str
    sentence: str
    covers: tuple[int, ...]
    test: Equivalence | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        test = None if self.test is None else self.test.to_dict()
        return dataclasses.asdict(self) | {"covers": list(self.covers), "test": test}


def seed_verdicts(
    records: Sequence[RunRecord],
    *,
    pairs: Sequence[tuple[RunRecord, RunRecord]],
    ladders: Sequence[str],
    margin: float | None,
) -> list[SeedVerdict]:
    """Judge the groups whose runs drew their own starts by the test over seeds.

    The test takes the place of the ABSTAIN of each of a group's pairs. A pair whose ladder says
    anything else keeps that verdict, and a group whose pairs PASS at every seed needs no test.

    Parameters
    ----------
    ladders
        The verdict of each pair's ladder.
    margin
        The difference of scores that counts as none; without one every group is ABSTAIN.
    """
    verdicts = []
    keys = [seed_group_key(*pair) for pair in pairs]
    for group in (group for group in seed_groups(records) if group.own_starts):
        places = [i for i, key in enumerate(keys) if key == group.key]
        passing = {int(pairs[i][0].config["seed"]) for i in places if ladders[i] == "PASS"}
        if passing == set(group.seeds):
            continue
        test = None if margin is None else group.test(margin)
        if test is None:
            verdict = "ABSTAIN"
            outcome = (
                "each framework drew its own start; parity.margin, the difference of scores that "
                "counts as none, judges them over seeds"
            )
        else:
            verdict, outcome = test.verdict, test.sentence()
        many = len(group.seeds)
        over = f" over {many} seed{'s' * (many != 1)}"
        judged = SeedVerdict(
            title=group.title(),
            verdict=verdict,
            sentence=f"eval/{group.title(over)}: {outcome}",
            covers=tuple(i for i in places if ladders[i] == "ABSTAIN"),
            test=test,
        )
        verdicts.append(judged)
    return verdicts
