"""Names of runs that tell them from each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import identity
from pipeline.record.record import RunRecord


def name_run(values: Mapping[str, Any]) -> str:
    """Return a run's name: its model, its backend, and its loop unless it is the manual one."""
    loop = values["train"]["loop"]
    parts = [values["model"]["name"], values["backend"]["name"], "" if loop == "manual" else loop]
    return " ".join(part for part in parts if part)


def name_runs(records: Sequence[RunRecord]) -> list[str]:
    """Return one name a run: its label, where several share it what differs, or else its id."""
    labels = [record.label() for record in records]
    flat = [identity.flatten(record.config) for record in records]
    names = []
    for label, settings in zip(labels, flat, strict=True):
        peers = [other for other, its in zip(flat, labels, strict=True) if its == label]
        keys = {key: None for peer in peers for key in peer if identity.decides_numbers(key)}
        parts = [
            f"{key.removesuffix('.name')}={settings[key]}"
            for key in keys
            if all(key in peer for peer in peers)
            and any(peer[key] != settings[key] for peer in peers)
        ]
        names.append(", ".join([label, *parts]))
    counts = Counter(names)
    ids = [str(record.about.get("run") or "")[:8] for record in records]
    return [
        f"{name}, {run}" if counts[name] > 1 and run else name
        for name, run in zip(names, ids, strict=True)
    ]
