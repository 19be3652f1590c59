"""The files of a pair that is not ours: its map for people, and all that a job reads of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from pipeline import storage
from pipeline.align import prove
from pipeline.align.draws import Drawn
from pipeline.align.propose import Match, list_candidates
from pipeline.align.settings import Difference, compare_optimizers
from pipeline.config.types import ConfigError
from pipeline.pairs.own.prepared import Field, Regroup, to_plain
from pipeline.pairs.own.source import SIDES
from pipeline.pairs.pair import Layout


class Samples(NamedTuple):
    """What the models are called with: how rows hold arrays, and some rows of samples."""

    x: list[Field]
    y: list[Field] | None
    rows: np.ndarray


def read_map(request: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[Match] | None:
    """Return the map that the user gave; None where there is none."""
    if request["map"] is None:
        return None
    name = request["model"]["map"]
    try:
        entries = yaml.safe_load(request["map"])["parameters"]
        pairs = [(entry["torch"], entry["tensorflow"], entry.get("axes")) for entry in entries]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ConfigError("model.map", name, f"is no map: {type(error).__name__}") from None
    by_path = {side: {tensor.name: tensor for tensor in each} for side, each in tensors.items()}
    matches = []
    for a, b, axes in pairs:
        for side, path in (("torch", a), ("tensorflow", b)):
            if path not in by_path[side]:
                raise ConfigError("model.map", name, f"{side} has no tensor {path}")
        one, other = by_path["torch"][a], by_path["tensorflow"][b]
        ways = [c.axes for c in list_candidates(one, other)] or [None]
        wanted = next((way for way in ways if describe_axes(way) == axes), None)
        if axes is not None and wanted is None:
            raise ConfigError("model.map", name, f"{a}: axes {axes} do not fit {b}")
        matches.append(Match(one, other, wanted))
    return matches


def write_pair(
    folder: Path,
    *,
    first: Mapping[str, np.ndarray],
    samples: Samples,
    digest: str,
    proof: prove.Proof,
    tensors: Mapping[str, Any],
    differences: Sequence[Difference],
    layers: Mapping[str, Any],
    misfits: Sequence[Any],
    trains: bool,
    optimizers: Mapping[str, Any],
    drawn: Drawn,
    constants: Mapping[str, Any],
    regroups: Sequence[Regroup],
) -> None:
    """Write what was made; ``about.json`` is the last one."""
    matched = {
        "torch": {match.a.path for match in proof.matches},
        "tensorflow": {match.b.path for match in proof.matches},
    }
    left_over = {
        side: [tensor for tensor in each if tensor.path not in matched[side]]
        for side, each in tensors.items()
    }
    about = {
        "format": 1,
        "order": [*first],
        "digest": storage.array_digest({**first, "sample": samples.rows}),
        "x": to_plain(samples.x),
        "y": None if samples.y is None else to_plain(samples.y),
        "data": digest,
        "places": {side: describe_places(proof.matches, side) for side in SIDES},
        "ignored": {side: [tensor.path for tensor in each] for side, each in left_over.items()},
        "left_over": {
            side: [[t.name, list(t.shape), t.trained] for t in each]
            for side, each in left_over.items()
        },
        "trained_on_one_side": [
            [m.a.name, m.b.name, m.a.trained]
            for m in proof.matches if m.a.trained != m.b.trained
        ],
        "layers": layers,
        "misfits": list(misfits),
        "trains": trains,
        "unseen": sorted(
            {m.a.layer.removeprefix("module.") for m in proof.matches if m.a.layer != "module"}
            - set(layers["torch"])
        ),
        "draws": [[list(d.shape), None if d.axes is None else list(d.axes)] for d in drawn.draws],
        "draw_order": drawn.order,
        "optimizers": optimizers,
        "settings": [
            [each.a_layer.removeprefix("module."), *each[1:]]
            for each in [*differences, *compare_optimizers(optimizers)]
        ],
        "constants": constants,
        "regroups": [[list(g.paths), g.parts, g.stacked] for g in regroups],
        "proof": {
            "holds": proof.holds,
            "near": proof.near,
            "gradient": proof.gradient,
            "apart": proof.apart if np.isfinite(proof.apart) else None,
            "changed": list(proof.changed),
            "interchangeable": [list(group) for group in proof.interchangeable],
        },
    }  # fmt: skip
    np.save(folder / "sample.npy", samples.rows, allow_pickle=False)
    np.savez(folder / "first.npz", **first)  # type: ignore[arg-type]
    text = yaml.safe_dump(describe_map(proof, left_over), sort_keys=False, width=100)
    (folder / "map.yaml").write_text(text)
    storage.write_atomic(
        folder / "about.json", lambda file: file.write(json.dumps(about, indent=1).encode())
    )


def describe_places(matches: Sequence[Match], side: str) -> dict[str, Any]:
    """Return one side's places by neutral name, which is the one in PyTorch."""
    return {
        m.a.name: {
            "path": m.a.path if side == "torch" else m.b.path,
            "axes": None if side == "torch" else describe_axes(m.axes),
            "role": "trained" if m.a.trained or m.b.trained else "statistic",
        }
        for m in matches
    }


def describe_axes(axes: Any) -> Any:
    """Return how a tensor is held, as JSON and YAML take it."""
    if isinstance(axes, Layout):
        return {name: list(value) for name, value in axes._asdict().items()}
    return None if axes is None else list(axes)


def describe_map(proof: prove.Proof, left_over: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``map.yaml`` holds."""
    return {
        "proved": proof.holds,
        "parameters": [
            {"torch": m.a.name, "tensorflow": m.b.name}
            | ({} if m.axes is None else {"axes": describe_axes(m.axes)})
            for m in proof.matches
        ],
        "left over": {side: [t.name for t in each] for side, each in left_over.items()},
    }
