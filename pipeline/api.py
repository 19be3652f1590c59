"""Twingrad as a library: train one side, compare two, from a script or a notebook.

``from pipeline import run, compare``. The functions do what the commands do and leave the same
files, but install no signal handlers, end no process and print no tables; what they return is
typed. A wrong value is a `ConfigError`, whose text is the one line that the command prints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config.compose import compose_values
from pipeline.config.schema import parse_config, parse_recorded, read_accepted
from pipeline.config.types import ConfigError
from pipeline.naming import name_run
from pipeline.parity.verdict import Finding, Rung
from pipeline.record.record import RunRecord, found_in


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run that was trained.

    Attributes
    ----------
    record
        Every step: losses, rates, gradients, parameters and optimizer state, in native precision.
    scores
        Of the test set, by name: ``mse``, ``mae``, ``r2`` or ``accuracy``, ``log_loss``.
    folder
        Where ``config.yaml``, ``record/`` and ``plots/`` are.
    run_id
        The run's id in MLflow.
    """

    record: RunRecord
    scores: Mapping[str, float]
    folder: Path
    run_id: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """The verdict on two runs.

    Attributes
    ----------
    verdict
        PASS, FAIL, ABSTAIN or ERROR.
    exit_code
        What the command would end with: 0, 1 or 3.
    rungs
        The verdict rung by rung, from the data to the evaluation.
    finding
        The first place where the two differ beyond their bound, None where they do not.
    notes
        What is to know besides, the most important first.
    records
        The two runs.
    folder
        Where ``report.html``, ``parity.json`` and ``plots/`` are.
    """

    verdict: str
    exit_code: int
    rungs: Sequence[Rung]
    finding: Finding | None
    notes: Sequence[str]
    records: tuple[RunRecord, RunRecord]
    folder: Path


def run(*overrides: str, folder: str | Path | None = None) -> RunResult:
    """Train and evaluate one side, as ``python -m pipeline`` with these overrides does.

    Parameters
    ----------
    *overrides
        As on the command line: ``"backend=torch"``, ``"optimizer=adam"``, ``"train.epochs=20"``.
    folder
        Where the run's files go; None makes one below ``outputs/runs``.

    Raises
    ------
    ConfigError
        If a value is wrong; nothing was created.
    NonFiniteLossError
        If the loss left the range of numbers; the run is closed as FAILED with what it had.
    RuntimeError
        If a process of its own, which a framework that was started here with other threads needs,
        failed; with its last line.
    """
    values = compose_values(overrides)
    for key in ("run", "resume"):
        if values[key] is not None:
            raise ConfigError(key, values[key], "is a command's; a library has the run in hand")
    from pipeline.jobs.resolve import resolve
    from pipeline.stages import run as stage
    from pipeline.tracking.store import resolve_uri, restored_uri

    # MLflow keeps a store by its URI, and a notebook may change its folder between two runs.
    place = values["tracking"]["uri"]
    if isinstance(place, str):
        values["tracking"]["uri"] = resolve_uri(place)
    job = resolve(values)
    if "train" not in job.settings.stages:
        raise ConfigError("stages", list(job.settings.stages), "must have train")
    files = _make_place("runs") if folder is None else Path(folder)
    if stage.needs_own_process(job.settings):
        record = _run_elsewhere(overrides, files)
    else:
        with restored_uri():
            record = stage.run(
                job, folder=files, name=name_run(values), parent=None, resume=False,
                recover=True, progress=_show_nothing,
            )  # fmt: skip
    return RunResult(
        record=record,
        scores=dict(record.about["scores"]),
        folder=files,
        run_id=str(record.about["run"]),
    )


def compare(
    a: RunResult | str | Path,
    b: RunResult | str | Path,
    *overrides: str,
    folder: str | Path | None = None,
    probe: bool = True,
) -> ComparisonResult:
    """Judge two runs, as the stages ``probe`` and ``compare`` do.

    Parameters
    ----------
    a, b
        What `run` returned, the folder of a record, or the id of a run.
    *overrides
        Of the groups ``parity`` and ``tracking``: ``"parity.gradcheck=true"``.
    folder
        Where the report goes; None makes one below ``outputs/runs``.
    probe
        Whether to measure the pair, where nobody has. Without what a probe measures, a pair whose
        bits differ can only be judged in part.

    Raises
    ------
    ConfigError
        If a value is wrong, a run is not there, or its record cannot be read.
    RuntimeError
        If the pair has to be probed, and a framework was started here with other threads.
    """
    from pipeline.jobs.resolve import allow_code
    from pipeline.stages import compare as stage
    from pipeline.stages.probe import find_evidence, probe_and_save
    from pipeline.stages.run import needs_own_process

    settings = parse_config(compose_values(overrides))
    allow_code(settings)
    for given in (a, b):
        if isinstance(given, RunResult):  # which this process was told to run
            allow_code(parse_recorded(given.record.config))
    parity = settings.parity
    records = _find_record(a, settings.tracking.uri), _find_record(b, settings.tracking.uri)
    asked: dict[str, Any] = {
        "prove": parity.prove,
        "gradcheck": parity.gradcheck,
        "accept": read_accepted(parity.accept),
        "precision": parity.precision,
    }
    if probe and stage.may_be_probed(*records) and find_evidence(*records, **asked) is None:
        if any(needs_own_process(parse_recorded(record.config)) for record in records):
            raise RuntimeError(
                "a framework was started in this process with other threads than these runs had; "
                "compare them in a new process, or with probe=False"
            )
        probe_and_save(*records, **asked)
    place = _make_place("runs") if folder is None else Path(folder)
    result = stage.compare(
        records,
        folder=place,
        title="Comparison of 2 runs",
        formats=settings.tracking.figures,
        rtol=parity.rtol,
        atol=parity.atol,
        margin=parity.margin,
        accept=asked["accept"],
        precision=parity.precision,
        evidence=partial(find_evidence, **asked),
        together=True,
    )
    (ladder,) = result.ladders
    return ComparisonResult(
        verdict=result.worst,
        exit_code=result.exit_code,
        rungs=ladder.rungs,
        finding=ladder.finding,
        notes=ladder.notes,
        records=records,
        folder=place,
    )


def _find_record(run: RunResult | str | Path, uri: str) -> RunRecord:
    """Return the record of a result, of a folder, or of a run in a store."""
    if isinstance(run, RunResult):
        return run.record
    from pipeline.tracking.query import find_record
    from pipeline.tracking.store import resolve_uri, restored_uri, use_store

    with restored_uri():
        if not found_in(Path(run)):
            use_store(resolve_uri(uri))
        try:
            return RunRecord.load(find_record(str(run), key="run"))
        except ValueError as error:
            raise ConfigError("run", run, str(error)) from None


def _make_place(kind: str) -> Path:
    """Return a folder of now, as the commands name theirs."""
    now = datetime.datetime.now()
    return Path("outputs", kind, f"{now:%Y-%m-%d}", f"{now:%H-%M-%S.%f}")


@contextlib.contextmanager
def _show_nothing(total: int) -> Iterator[Any]:
    """Progress of so many updates that nobody sees."""
    yield lambda step, loss, score: None


def _run_elsewhere(overrides: Sequence[str], folder: Path) -> RunRecord:
    """Run the command in a fresh process, whose framework can be started in another way."""
    command = [sys.executable, "-m", "pipeline", *overrides, f"hydra.run.dir='{folder}'"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the job's process died"])[-1])
    return RunRecord.load(folder / "record")
