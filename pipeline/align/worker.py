"""The process that holds both frameworks: makes both models, maps them, and draws the start.

``python -m pipeline.align.worker <folder>`` reads ``request.json`` there, and writes
``about.json``, ``first.npz``, ``map.yaml``, the samples, or ``error.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from pipeline import backends, data, seeds, storage
from pipeline.align import batches, prove
from pipeline.align.propose import Match, list_candidates, propose
from pipeline.align.settings import Difference, compare_optimizers, compare_settings
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import to_neutral
from pipeline.pairs.own.prepared import Field, Prepared, to_plain
from pipeline.pairs.own.source import brings, load_batches, load_hints
from pipeline.pairs.pair import Layout
from pipeline.pairs.registry import FOREIGN, find_pair
from pipeline.watching import watched

SIDES = ("torch", "tensorflow")
WIDE, NARROW = "float64", "float32"


class Samples(NamedTuple):
    """What the models are called with: how rows hold arrays, and some rows of samples."""

    x: list[Field]
    y: list[Field] | None
    rows: np.ndarray


def main(folder: Path) -> int:
    """Make everything in a folder; a `ConfigError` is left there as JSON, with exit code 2."""
    request = json.loads((folder / "request.json").read_text())
    try:
        make(folder, request)
    except ConfigError as error:
        key, _, rest = str(error).partition("=")
        value, _, reason = rest.partition(": ")
        (folder / "error.json").write_text(json.dumps([key, value, reason]))
        return 2
    return 0


def make(folder: Path, request: Mapping[str, Any]) -> None:
    """Make both models, the map between them, and their start; in float64 where their code can."""
    try:
        make_in(WIDE, folder, request)
    except ConfigError:
        try:
            make_in(NARROW, folder, request)
        except ConfigError as error:  # the one in the precision that code is written for
            raise error from None


def make_in(dtype: str, folder: Path, request: Mapping[str, Any]) -> None:
    """Make both models, the map between them, and their start, in a precision."""
    sides = {name: backends.load_capability(name, "edit") for name in SIDES}
    for name in SIDES:
        seed = seeds.integer(request["seed"], f"framework.{name}")
        backends.load(name).configure(
            threads=request["threads"], deterministic=True, device="cpu", dtype=dtype, seed=seed
        )
    arrays, rows_of_batch, samples = read_samples(folder, request)
    prepared = Prepared(x=samples.x, y=samples.y, sample=samples.rows)
    models = {name: build(name, request, prepared) for name in SIDES}
    outputs = {name: sides[name].differentiate(models[name], samples.rows, None)[0]
               for name in SIDES}  # fmt: skip
    check_outputs(request, outputs)
    tensors = {name: sides[name].list_tensors(models[name]) for name in SIDES}
    matches = read_map(request, tensors) or propose(
        tensors["torch"], tensors["tensorflow"], same=load_hints(request["model"])
    )
    if not matches:
        raise ConfigError("model.name", FOREIGN, "the two models have no parameter in common")
    own = {name: sides[name].read_tensors(models[name]) for name in SIDES}
    proof = prove_map(sides, models, tensors, matches, samples.rows, near=prove.NEARS[dtype])
    if request["map"] is not None and not proof.holds:
        raise ConfigError(
            "model.map", request["model"]["map"],
            f"does not hold: with it the outputs are {proof.apart:.3g} apart, relative to them",
        )  # fmt: skip
    if request["init"] == "torch":
        first = own["torch"]
    else:
        first = prove.carry_back(proof.matches, own["tensorflow"])
    first = {m.a.name: np.asarray(first[m.a.path], np.float64) for m in proof.matches}
    digest = write_samples(
        folder, request, arrays=arrays, rows=rows_of_batch, samples=samples,
        output=outputs["torch"],
    )  # fmt: skip
    layers = find_layers(sides, models, proof, samples.rows)
    draws = match_draws(*(list_draws(name, models[name], samples.rows) for name in SIDES))
    optimizers = describe_optimizers(request, models)
    differences = compare_settings(
        proof.matches, *(sides[name].list_settings(models[name]) for name in SIDES)
    )
    write(
        folder, first=first, samples=samples, digest=digest, proof=proof, tensors=tensors,
        differences=differences, layers=layers, optimizers=optimizers, draws=draws,
    )  # fmt: skip


def build(name: str, request: Mapping[str, Any], prepared: Prepared) -> Any:
    """Make one side's model."""
    side = find_pair(FOREIGN).load_side(name)
    inputs = prepared.sample.shape[1:]
    return side.model(inputs=inputs, outputs=0, prepared=prepared, **request["model"])


def read_samples(
    folder: Path, request: Mapping[str, Any]
) -> tuple[dict[str, dict[str, np.ndarray]], int, Samples]:
    """Return the pair's own batches by split, the rows of one, and some rows of samples."""
    if isinstance(request["data"], str):
        return {}, 0, Samples([], [], np.load(folder / "sample.npy", allow_pickle=False))
    function = load_batches(request["model"])
    if function is None:
        raise ConfigError("data.name", "own", "the pair has no batches(rng); give data=...")
    arrays, rows = {}, 0
    for split, count in (("train", request["data"]["batches"]), ("test", 1)):
        rng = seeds.stream(request["seed"], f"own.{split}")
        arrays[split], rows, _ = batches.take_batches(function, rng, count=count)
    x, y = batches.split_fields(arrays["train"])
    return (
        arrays,
        rows,
        Samples(x, y, batches.to_rows(arrays["train"], x, name="x")[: min(rows, 8)]),
    )


def check_outputs(request: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> None:
    """Refuse two models whose outputs cannot be compared."""
    shapes = {name: each.shape for name, each in outputs.items()}
    if shapes["torch"] != shapes["tensorflow"]:
        raise ConfigError(
            "model.name", FOREIGN,
            f"PyTorch returns the shape {shapes['torch']} and TensorFlow "
            f"{shapes['tensorflow']} for the same samples; torch_output or tensorflow_output "
            "says what counts",
        )  # fmt: skip


def prove_map(
    sides: Mapping[str, Any],
    models: Mapping[str, Any],
    tensors: Mapping[str, Any],
    matches: Sequence[Match],
    rows: np.ndarray,
    *,
    near: float,
) -> prove.Proof:
    """Hold a map against distinct random weights."""
    values = prove.draw_values(tensors["torch"], np.random.default_rng(1))
    unmatched = {t.path for t in tensors["torch"]} - {m.a.path for m in matches}
    torch, tensorflow = sides["torch"], sides["tensorflow"]
    torch.write_tensors(models["torch"], {n: v for n, v in values.items() if n not in unmatched})
    wanted = torch.differentiate(models["torch"], rows, None)[0]

    def outputs(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        tensorflow.write_tensors(models["tensorflow"], arrays)
        result: np.ndarray = tensorflow.differentiate(models["tensorflow"], rows, None)[0]
        return result

    proof = prove.prove(matches, values=values, wanted=wanted, outputs=outputs, near=near)
    outputs(prove.carry(proof.matches, values))  # the models are left with what was proved
    return proof


def list_draws(side: str, model: Any, rows: np.ndarray) -> list[tuple[int, ...]]:
    """Return the shapes of what dropout draws in a training pass of one side."""
    module = importlib.import_module(f"{find_pair(FOREIGN).package}.{side}")
    shapes: list[tuple[int, ...]] = module.list_draws(model, rows)
    return shapes


def match_draws(
    torch: Sequence[tuple[int, ...]], tensorflow: Sequence[tuple[int, ...]]
) -> list[tuple[list[int], list[int] | None]]:
    """Return how what dropout draws on one side is that of the other; empty where it is not known.

    Then each side draws for itself, which is seen, and the pair cannot be judged.
    """
    if len(torch) != len(tensorflow):
        return []
    matched = []
    for one, other in zip(torch, tensorflow, strict=True):
        first = {4: (0, 3, 1, 2), 3: (0, 2, 1)}.get(len(one))
        ways: list[tuple[int, ...] | None] = [None] if one == other else []
        if first is not None and len(other) == len(one) == 4:
            ways += [first] if tuple(other[axis] for axis in first) == one else []
        if len(ways) != 1:
            return []
        matched.append((list(other[1:]), None if ways[0] is None else list(ways[0])))
    return matched


def describe_optimizers(request: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, Any]:
    """Return by side what the pair's own optimizer is; empty where it brings none."""
    if not brings(request["model"], "optimizer", request["optimizer"]):
        return {}
    described = {
        name: backends.load_capability(name, "own").describe_optimizer(models[name])
        for name in SIDES
    }
    one, other = (described[name] for name in SIDES)
    if one["slots"] != other["slots"]:
        classes = [each["settings"]["class"] for each in (one, other)]
        raise ConfigError(
            "optimizer.name", "own",
            f"PyTorch's {classes[0]} keeps {one['slots']} and TensorFlow's {classes[1]} "
            f"{other['slots']}: no step of both can begin from one state",
        )  # fmt: skip
    return described


def find_layers(
    sides: Mapping[str, Any], models: Mapping[str, Any], proof: prove.Proof, rows: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return by side and neutral name the layers whose results can be compared.

    They belong together by their parameters and return arrays of one shape; where the map is
    proved, the same values, too: what returns others there is called at another place.
    """
    numbered = {name: sides[name].number_layers(models[name]) for name in SIDES}
    partners = {
        match.a.layer: match.b.layer
        for match in proof.matches
        if match.a.layer in numbered["torch"] and match.b.layer in numbered["tensorflow"]
    }
    names = {one: one.removeprefix("module.") for one in partners}
    layers = {
        "torch": {names[one]: numbered["torch"][one] for one in partners},
        "tensorflow": {names[one]: numbered["tensorflow"][two] for one, two in partners.items()},
    }
    shown = {}
    for side in SIDES:
        with watched() as values, sides[side].watch_layers(models[side], layers[side]):
            sides[side].differentiate(models[side], rows, None)
        shown[side] = {
            name: to_neutral(axes, sides[side].read(value))
            for name, (value, axes) in values.items()
        }
    one, other = shown["torch"], shown["tensorflow"]
    comparable = [
        name for name in one
        if name in other and one[name].shape == other[name].shape
        and (not proof.holds or prove.measure(one[name], other[name]) <= proof.near)
    ]  # fmt: skip
    return {
        side: {name: each[name] for name in comparable if name in each}
        for side, each in layers.items()
    }


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


def write_samples(
    folder: Path,
    request: Mapping[str, Any],
    *,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    rows: int,
    samples: Samples,
    output: np.ndarray,
) -> str:
    """Write the pair's own batches as a data set and return its digest; empty where it has none."""
    if not arrays:
        return ""
    has_loss = brings(request["model"], "loss", request["loss"])
    held: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"batch": rows, "scored": not (has_loss or samples.y is None)}
    for split, each in arrays.items():
        held[f"x_{split}"] = batches.to_rows(each, samples.x, name="x")
        count = len(held[f"x_{split}"])
        if samples.y is None:
            shape = (count, *output.shape[1:])
            rng = seeds.stream(request["seed"], f"own.projection.{split}")
            y = np.zeros((count, 1)) if has_loss else rng.standard_normal(shape)
            facts["projection"] = True
        else:
            y = batches.to_rows(each, samples.y, name="y")
            is_class = bool(samples.y) and samples.y[0].kind != "float" and y.shape[1] == 1
            if is_class and not has_loss:
                y = read_classes(y, classes=output.shape[-1])
                facts["classes"] = output.shape[-1]
            elif not has_loss and output.shape[1:] != y.shape[1:]:
                raise ConfigError(
                    "loss.name", request["loss"],
                    f"the outputs have the shape {output.shape[1:]} and the targets "
                    f"{y.shape[1:]} a sample; torch_loss and tensorflow_loss say how they meet",
                )  # fmt: skip
        held[f"y_{split}"] = y
    dataset = data.Dataset(name="own", arrays=held, facts=facts)
    data.save(dataset, folder)
    return dataset.digest


def read_classes(y: np.ndarray, *, classes: int) -> np.ndarray:
    """Return integer targets as class numbers of shape ``(n, 1)``, which the outputs must have."""
    numbers = y.astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= classes:
        raise ConfigError(
            "data.name", "own",
            f"batches(rng): y has the class {int(numbers.max())}, the models {classes} outputs",
        )  # fmt: skip
    return numbers


def write(
    folder: Path,
    *,
    first: Mapping[str, np.ndarray],
    samples: Samples,
    digest: str,
    proof: prove.Proof,
    tensors: Mapping[str, Any],
    differences: Sequence[Difference],
    layers: Mapping[str, Any],
    optimizers: Mapping[str, Any],
    draws: Sequence[Any],
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
        "draws": draws,
        "optimizers": optimizers,
        "settings": [
            [each.a_layer.removeprefix("module."), *each[1:]]
            for each in [*differences, *compare_optimizers(optimizers)]
        ],
        "proof": {
            "holds": proof.holds,
            "near": proof.near,
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


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
