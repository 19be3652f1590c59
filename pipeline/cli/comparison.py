"""The command that probes and compares what is recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from pipeline.config.schema import Config, parse_config, read_accepted
from pipeline.config.types import ConfigError
from pipeline.naming import name_runs
from pipeline.record.record import RunRecord
from pipeline.sweeps.close import count_unfinished, read_children
from pipeline.sweeps.evidence import print_step, probe_options
from pipeline.sweeps.publish import publish_comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Recorded:
    """What is compared: runs that are recorded, and the sweep that they are chosen by, if any.

    Attributes
    ----------
    unreadable
        By run, why its record cannot be read.
    notes
        Sentences about the sweep's runs that left no record.
    parent, jobs, children
        The sweep's run in the store, how many jobs it had, and their runs in the store.
    """

    title: str
    records: Sequence[RunRecord]
    unreadable: Mapping[str, str]
    notes: list[str]
    parent: Any = None
    jobs: int | None = None
    children: Sequence[Any] = ()


def compare_recorded(values: Mapping[str, Any], folder: Path) -> int:
    """Probe recorded runs, compare them, or both."""
    from pipeline import terminal
    from pipeline.jobs.resolve import allow_code
    from pipeline.record.record import found_in
    from pipeline.report.markdown import tell_command
    from pipeline.stages.compare import compare
    from pipeline.stages.probe import find_evidence
    from pipeline.tracking.recover import close_dead_runs
    from pipeline.tracking.run import NOTE_TAG, reopen_run
    from pipeline.tracking.store import use_store
    from pipeline.tracking.views import find_page, find_runs_address

    settings = parse_config(values)
    _check_request(settings)
    allow_code(settings)
    runs, chosen = list(settings.compare.runs), settings.compare.sweep
    if chosen is not None or not all(found_in(Path(run)) for run in runs):
        use_store(settings.tracking.uri)
        close_dead_runs(stale=settings.tracking.stale)
    recorded = _read_recorded(runs, sweep=chosen, experiment=settings.tracking.experiment)
    if "probe" in settings.stages:
        _probe_pairs(recorded.records, settings=settings)
    if "compare" not in settings.stages:
        return 0
    asked = f"compare.sweep={chosen}" if chosen else f"compare.runs=[{','.join(runs)}]"
    result = compare(
        recorded.records,
        folder=folder,
        title=recorded.title,
        formats=settings.tracking.figures,
        rtol=settings.parity.rtol,
        atol=settings.parity.atol,
        margin=settings.parity.margin,
        accept=read_accepted(settings.parity.accept),
        precision=settings.parity.precision,
        evidence=partial(find_evidence, **probe_options(settings)),
        hint=f"; python -m pipeline 'stages=[probe,compare]' '{asked}' measures it",
        notes=recorded.notes,
        unreadable=recorded.unreadable,
        together=len(runs) == 2,
        command=tell_command(HydraConfig.get().overrides.task, multirun=False),
        address=find_runs_address(settings.tracking.experiment, uri=settings.tracking.uri),
    )
    parent, notes = recorded.parent, recorded.notes
    tolerance = settings.parity.rtol, settings.parity.atol
    if parent is not None and tolerance == (None, None):  # another bar is no news of the sweep
        publish_comparison(
            reopen_run(parent.info.run_id), result, jobs=recorded.jobs, notes=notes,
            overrides=json.loads(parent.data.tags.get("overrides", "[]")),
            children=recorded.children, note=parent.data.tags.get(NOTE_TAG),
        )  # fmt: skip
    terminal.comparison(result, notes=notes, show=settings.parity.show)
    page = find_page(settings.tracking.experiment)
    terminal.where(folder, uri=settings.tracking.uri, page=page)
    terminal.summary(result, unfinished=count_unfinished(recorded.children, jobs=recorded.jobs))
    return result.exit_code if result.judges or chosen is None else 0


def _check_request(settings: Config) -> None:
    """Refuse stages and runs that this command cannot work on, before anything is read."""
    if not set(settings.stages) <= {"probe", "compare"}:
        raise ConfigError("stages", list(settings.stages), "probe and compare stand alone")
    runs = list(settings.compare.runs)
    if runs and settings.compare.sweep is not None:
        raise ConfigError("compare.runs", runs, "does not go with compare.sweep; give one of them")
    if len(runs) < 2 and settings.compare.sweep is None:
        raise ConfigError("compare.runs", runs, "give two or more runs, or compare.sweep")


def _read_recorded(runs: Sequence[str], *, sweep: str | None, experiment: str) -> _Recorded:
    """Read the records of the runs of a sweep, if one is chosen, and of those that are named."""
    from pipeline.tracking.query import find_latest_sweep, find_record, find_sweep

    parent, jobs, title = None, None, f"Comparison of {len(runs)} runs"
    records: list[RunRecord] = []
    unreadable: dict[str, str] = {}
    notes: list[str] = []
    children: list[Any] = []
    if sweep is not None:
        parent, children = find_sweep(find_latest_sweep(experiment) if sweep == "latest" else sweep)
        title, jobs = parent.info.run_name, json.loads(parent.data.tags.get("jobs", "null"))
        records, unreadable, notes = read_children(children, jobs=jobs)
        if not records and not unreadable:
            raise ConfigError("compare.sweep", sweep, "no run of it left a record")
    for run in runs:
        try:
            records.append(RunRecord.load(find_record(run, key="compare.runs")))
        except ValueError as error:
            unreadable[run] = str(error)
    return _Recorded(
        title=title, records=records, unreadable=unreadable, notes=notes, parent=parent, jobs=jobs,
        children=children,
    )  # fmt: skip


def _probe_pairs(records: Sequence[RunRecord], *, settings: Config) -> None:
    """Probe each pair of the runs that can be probed and was not probed before."""
    from pipeline.stages.compare import may_be_probed, paired
    from pipeline.stages.probe import find_evidence, probe_and_save

    named = dict(zip(map(id, records), name_runs(records), strict=True))
    for a, b in paired(records, together=len(settings.compare.runs) == 2)[0]:
        if not may_be_probed(a, b):
            print("not probed: other settings or other data", flush=True)
            continue
        print(f"probing {named[id(a)]} against {b.label()}", flush=True)
        if find_evidence(a, b, **probe_options(settings)) is None:
            probe_and_save(a, b, say=print_step, **probe_options(settings))
