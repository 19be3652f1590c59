"""The formulas of the frameworks that are documented to be coarse, for the runs of a pair."""

from __future__ import annotations

from pipeline import backends
from pipeline.record.record import RunRecord


def list_coarse(a: RunRecord, b: RunRecord) -> dict[str, dict[str, str]]:
    """Return by side the formulas of its framework that are documented to be coarse."""
    coarse: dict[str, dict[str, str]] = {}
    for side, record in (("a", a), ("b", b)):
        config = record.config
        words = {config["train"]["loop"], config.get("loss", {}).get("name", "")}
        known = backends.traits(record.backend)["COARSE"]
        whys = [why for key, why in known.items() if words >= set(key.split("+"))]
        coarse[side] = dict.fromkeys(["loss/loss"], "; ".join(whys)) if whys else {}
    return coarse
