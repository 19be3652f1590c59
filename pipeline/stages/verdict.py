"""``verdict.json``: the verdict on a pair that is not ours, for programs to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from pipeline import storage
from pipeline.parity.verdict import Ladder
from pipeline.record.record import RunRecord


class Judged(Protocol):
    """A comparison of one pair."""

    @property
    def pairs(self) -> Any:
        """Its pairs of records."""

    @property
    def ladders(self) -> Any:
        """The verdict on each."""

    @property
    def exit_code(self) -> int:
        """What a command ends with."""


def write_verdict(result: Judged, path: Path) -> None:
    """Write the verdict on the one pair of a comparison."""
    ((a, b),), (ladder,) = result.pairs, result.ladders
    text = json.dumps(describe_verdict(a, b, ladder, exit_code=result.exit_code), indent=1)
    storage.write_atomic(path, lambda file: file.write(text.encode()))


def describe_verdict(
    a: RunRecord, b: RunRecord, ladder: Ladder, *, exit_code: int
) -> dict[str, Any]:
    """Return what ``verdict.json`` holds, as ``docs/verdict.schema.json`` says."""
    plain, about = ladder.to_dict(), a.about["pair"]
    model = a.config["model"]
    settings = [
        dict(zip(("torch_layer", "tensorflow_layer", "setting", "torch", "tensorflow"), each,
                 strict=True))
        for each in about["settings"]
    ]  # fmt: skip
    return {
        "format": 1,
        "verdict": ladder.verdict,
        "exit_code": exit_code,
        "kind": ladder.kind,
        "sentence": plain["sentence"],
        "finding": plain["finding"],
        "rungs": [
            {key: rung[key] for key in ("name", "verdict", "kind", "tensor", "step", "why")}
            for rung in plain["rungs"]
        ],
        "notes": plain["notes"],
        "causes": [],
        "settings": settings,
        "map": {**about["proof"], "left_over": about["left_over"]},
        "steps": min(a.steps, b.steps),
        "runs": [str(record.about.get("run", "")) for record in (a, b)],
        "model": {key: model[key] for key in ("path", "torch", "tensorflow", "settings", "init")},
        "code": a.about.get("environment", {}).get("pair", ""),
        "versions": {record.backend: dict(record.about["versions"]) for record in (a, b)},
    }
