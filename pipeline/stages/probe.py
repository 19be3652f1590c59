"""The stage ``probe``: measures a pair, has it judged, and measures again what is suspect.

`pipeline.probe` measures and `pipeline.parity` judges; neither knows the other. What is beyond its
bound gets a second opinion and is judged again, until nothing is left that has none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline import identity, storage
from pipeline.pairs.pair import Side
from pipeline.parity.evidence import METHOD, Evidence
from pipeline.parity.ladder import judge
from pipeline.parity.verdict import Ladder
from pipeline.probe.measure import measure_pair, open_sides
from pipeline.probe.opinion import give_opinions, observe_types, open_makers
from pipeline.probe.replay import explain_replays
from pipeline.probe.side import ProbedSide
from pipeline.record.record import RunRecord
from pipeline.record.trace import NonFiniteLossError
from pipeline.stages.coarse import list_coarse
from pipeline.stages.train import train

EVIDENCE = Path("outputs/evidence")
_ROUNDS = 1000  # of second opinions; each excuses a place and lets the next one be seen


def probe_pair(
    a: RunRecord,
    b: RunRecord,
    *,
    prove: bool = False,
    gradcheck: bool = False,
    accept: Mapping[str, str] | None = None,
    precision: str = "fail",
    twins: Mapping[str, Side] | None = None,
    scratch: Path | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Evidence:
    """Measure everything that a verdict on a pair needs; see `pipeline.probe.measure`.

    What is accepted, or a note, hides what comes behind it from a second opinion, so the verdict is
    asked for as it will be asked for later.
    """
    sides = open_sides(a, b, twins=twins, scratch=scratch)
    evidence = measure_pair(sides, prove=prove, gradcheck=gradcheck, say=say)
    if evidence.about["replay"]:  # a side that draws cannot be judged
        return evidence
    explain_replays(sides, evidence, lambda name: rerun_freely(sides[name]))
    makers = open_makers(sides)
    for number in range(_ROUNDS):
        ladder = judge_probed(a, b, evidence, accept=accept, precision=precision)
        if not ladder.suspects:
            break
        if number == 0:
            observe_types(sides, evidence, ladder.suspects)
            ladder = judge_probed(a, b, evidence, accept=accept, precision=precision)
            if not ladder.suspects:  # the types explain all of it
                break
            say("a second opinion on what is beyond its bound")
        give_opinions(sides, evidence, ladder.suspects, makers)
    return evidence


def judge_probed(a: RunRecord, b: RunRecord, evidence: Evidence, **settings: Any) -> Ladder:
    """Judge a pair with what the documented formulas of its frameworks are known to be."""
    return judge(a, b, evidence=evidence, coarse=list_coarse(a, b), **settings)


def rerun_freely(side: ProbedSide) -> RunRecord:
    """Train a side once more as its run did, with the stage's own loop around the backend's."""
    job, train_settings = side.job, side.job.settings.train
    record = RunRecord(about={"config": side.record.config})
    with side.room() as folder, contextlib.suppress(NonFiniteLossError):  # as the run did
        train(
            record, backend=side.backend, model=side.build(side.dtype), twin=side.twin,
            batches=job.batches, dataset=job.dataset, epochs=train_settings.epochs,
            rates=side.rates, full=True, progress=lambda *told: None, log_every=10**9,
            evaluate_every=train_settings.evaluate_every, patience=train_settings.patience,
            monitor=train_settings.monitor, folder=folder, masks=job.masks,
            **job.step_arguments(),
        )  # fmt: skip
    return record


def find_evidence(
    a: RunRecord,
    b: RunRecord,
    *,
    prove: bool = False,
    gradcheck: bool = False,
    accept: Mapping[str, str] | None = None,
    precision: str = "fail",
) -> Evidence | None:
    """Return what an earlier probe of this pair left whole, by this method, for what is asked."""
    with contextlib.suppress(ValueError):  # not there, cut short or altered
        evidence = Evidence(RunRecord.load(evidence_folder(a, b)))
        asked = evidence.about.get("asked", {})
        wanted = {"prove": prove, "gradcheck": gradcheck}
        if evidence.about.get("method") != METHOD:
            return None
        if any(value and not asked.get(key) for key, value in wanted.items()):
            return None
        ladder = judge_probed(a, b, evidence, accept=accept, precision=precision)
        return None if ladder.suspects else evidence
    return None


def probe_and_save(a: RunRecord, b: RunRecord, **settings: Any) -> Evidence:
    """Probe a pair and keep what was measured."""
    evidence = probe_pair(a, b, scratch=EVIDENCE, **settings)
    RunRecord(about=evidence.about, arrays=evidence.arrays).save(evidence_folder(a, b))
    return evidence


def evidence_folder(a: RunRecord, b: RunRecord) -> Path:
    """Return where the evidence of a pair is kept: by both records' digests and the code's."""
    return EVIDENCE / f"{digest_record(a)[:16]}-{digest_record(b)[:16]}"


def digest_record(record: RunRecord) -> str:
    """Return what tells one run's numbers from another's: its config and all of its arrays."""
    digests = record.digests or {
        key: storage.array_digest({key: values}) for key, values in record.arrays.items()
    }
    basis = {key: digest for key, digest in digests.items() if key != "seconds"}
    basis |= {"config": identity.config_digest(record.config), "code": identity.code_digest()}
    return identity.digest_texts(basis)
