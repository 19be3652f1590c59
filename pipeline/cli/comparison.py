"""The command that probes and compares what is recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from pipeline.config.schema import read_accepted
from pipeline.config.types import ConfigError
from pipeline.record.record import RunRecord
from pipeline.sweeps.close import read_children
from pipeline.sweeps.evidence import print_step, probe_options
from pipeline.sweeps.publish import publish_comparison

if TYPE_CHECKING:
    pass


def compare_recorded(values: Mapping[str, Any], folder: Path) -> int:
    """Probe recorded runs, compare them, or both."""
    from pipeline import terminal
    from pipeline.config.schema import parse_config
    from pipeline.record.record import found_in
    from pipeline.report.markdown import tell_command
    from pipeline.stages.compare import compare, may_be_probed, paired
    from pipeline.stages.probe import find_evidence, probe_and_save
    from pipeline.tracking.query import find_latest_sweep, find_record, find_sweep
    from pipeline.tracking.recover import close_dead_runs
    from pipeline.tracking.run import reopen_run
    from pipeline.tracking.store import use_store
    from pipeline.tracking.views import find_page, find_runs_address

    settings = parse_config(values)
    if not set(settings.stages) <= {"probe", "compare"}:
        raise ConfigError("stages", list(settings.stages), "probe and compare stand alone")
    runs, chosen = list(settings.compare.runs), settings.compare.sweep
    if (len(runs) < 2) == (chosen is None):
        raise ConfigError("compare.runs", runs, "give two or more runs, or compare.sweep")
    if chosen is not None or not all(found_in(Path(run)) for run in runs):
        use_store(settings.tracking.uri)
        close_dead_runs(stale=settings.tracking.stale)
    parent, jobs, title = None, None, f"Comparison of {len(runs)} runs"
    records: list[RunRecord] = []
    unreadable: dict[str, str] = {}
    notes: list[str] = []
    if chosen is not None:
        parent, children = find_sweep(
            find_latest_sweep(settings.tracking.experiment) if chosen == "latest" else chosen
        )
        title, jobs = parent.info.run_name, json.loads(parent.data.tags.get("jobs", "null"))
        records, unreadable, notes = read_children(children, jobs=jobs)
        if not records and not unreadable:
            raise ConfigError("compare.sweep", chosen, "no run of it left a record")
    for run in runs:
        try:
            records.append(RunRecord.load(find_record(run, key="compare.runs")))
        except ValueError as error:
            unreadable[run] = str(error)
    if "probe" in settings.stages:
        for a, b in paired(records, together=len(runs) == 2)[0]:
            if not may_be_probed(a, b):
                print("not probed: other settings or other data", flush=True)
                continue
            print(f"probing {a.label()} against {b.label()}", flush=True)
            if find_evidence(a, b, **probe_options(settings)) is None:
                probe_and_save(a, b, say=print_step, **probe_options(settings))
    if "compare" not in settings.stages:
        return 0
    asked = f"compare.sweep={chosen}" if chosen else f"compare.runs=[{','.join(runs)}]"
    result = compare(
        records,
        folder=folder,
        title=title,
        formats=settings.tracking.figures,
        rtol=settings.parity.rtol,
        atol=settings.parity.atol,
        margin=settings.parity.margin,
        accept=read_accepted(settings.parity.accept),
        precision=settings.parity.precision,
        evidence=partial(find_evidence, **probe_options(settings)),
        hint=f"; python -m pipeline 'stages=[probe,compare]' '{asked}' measures it",
        notes=notes,
        unreadable=unreadable,
        together=len(runs) == 2,
        command=tell_command(HydraConfig.get().overrides.task, multirun=False),
        address=find_runs_address(settings.tracking.experiment, uri=settings.tracking.uri),
    )
    tolerance = settings.parity.rtol, settings.parity.atol
    if parent is not None and tolerance == (None, None):  # another bar is no news of the sweep
        overrides = json.loads(parent.data.tags.get("overrides", "[]"))
        tracked = reopen_run(parent.info.run_id)
        publish_comparison(tracked, result, overrides=overrides, jobs=jobs, notes=notes)
    terminal.comparison(result, notes=notes)
    page = find_page(settings.tracking.experiment)
    terminal.where(folder, uri=settings.tracking.uri, page=page)
    return result.exit_code
