"""The process that holds both frameworks: makes both models, maps them, and draws the start.

``python -m pipeline.align.worker <folder>`` reads ``request.json`` there, and writes
``about.json``, ``first.npz``, ``map.yaml``, the samples, or ``error.json``.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from pipeline import backends, data, seeds, storage
from pipeline.align import batches, prove
from pipeline.align.draws import Drawn, settle_draws
from pipeline.align.propose import Match, is_below, list_candidates, propose
from pipeline.align.settings import Difference, compare_optimizers, compare_settings
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import to_neutral
from pipeline.pairs.own.prepared import Draw, Field, Prepared, to_plain
from pipeline.pairs.own.source import (
    brings,
    find_files,
    load_batches,
    load_hints,
    run,
    tell_error,
)
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
    except Exception as error:
        traceback.print_exc()
        reason = f"the pair could not be mapped: {tell_error(error)}"
        (folder / "error.json").write_text(json.dumps(["model.name", FOREIGN, reason]))
        return 1
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
    check_outputs(outputs, rows=len(samples.rows))
    check_own_losses(request, models["tensorflow"])
    tensors = {name: sides[name].list_tensors(models[name]) for name in SIDES}
    check_tensors(request, tensors)
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
    drawn = find_draws(sides, models, proof, samples.rows)
    proof = dataclasses.replace(proof, matches=drawn.matches)
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
    optimizers = describe_optimizers(request, models)
    differences = compare_settings(
        proof.matches, *(sides[name].list_settings(models[name]) for name in SIDES)
    )
    write(
        folder, first=first, samples=samples, digest=digest, proof=proof, tensors=tensors,
        differences=differences, layers=layers, optimizers=optimizers, drawn=drawn,
        constants=find_other_constants(proof.matches, own),
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
        take = partial(batches.take_batches, function, rng, count=count)
        arrays[split], rows, _ = run(find_files(request["model"])["torch"], take)
    x, y = batches.split_fields(arrays["train"])
    return (
        arrays,
        rows,
        Samples(x, y, batches.to_rows(arrays["train"], x, name="x")[: min(rows, 8)]),
    )


def check_outputs(outputs: Mapping[str, np.ndarray], *, rows: int) -> None:
    """Refuse two models whose outputs cannot be compared."""
    shapes = {name: each.shape for name, each in outputs.items()}
    for name, shape in shapes.items():
        if len(shape) < 1 or shape[0] != rows:
            raise ConfigError(
                "model.name", FOREIGN,
                f"the {name} model returns the shape {shape} for {rows} samples; {name}_output "
                "says what counts, with a row for each",
            )  # fmt: skip
    if shapes["torch"] != shapes["tensorflow"]:
        raise ConfigError(
            "model.name", FOREIGN,
            f"PyTorch returns the shape {shapes['torch']} and TensorFlow "
            f"{shapes['tensorflow']} for the same samples; torch_output or tensorflow_output "
            "says what counts",
        )  # fmt: skip


def check_own_losses(request: Mapping[str, Any], model: Any) -> None:
    """Refuse a Keras model with parts that act only in Keras's own loss or optimizer."""
    given = request["model"]
    if getattr(model.module, "losses", None) and not brings(given, "loss", request["loss"]):
        raise ConfigError(
            "loss.name", request["loss"],
            "the Keras model adds losses of its own (regularizers or add_loss); torch_loss and "
            "tensorflow_loss say how they count",
        )  # fmt: skip
    constrained = [v for v in model.variables if getattr(v, "constraint", None) is not None]
    if constrained and not brings(given, "optimizer", request["optimizer"]):
        raise ConfigError(
            "optimizer.name", request["optimizer"],
            "the Keras model has constraints, which only Keras's optimizers apply; give "
            "torch_optimizer and tensorflow_optimizer",
        )  # fmt: skip


def check_tensors(request: Mapping[str, Any], tensors: Mapping[str, Sequence[Any]]) -> None:
    """Refuse models with nothing to train, and hints that name nothing."""
    for side, each in tensors.items():
        if not any(tensor.trained for tensor in each):
            kind = "no parameter" if not each else "no parameter that is trained"
            raise ConfigError("model.name", FOREIGN, f"the {side} model has {kind}")
    hints = load_hints(request["model"])
    if not isinstance(hints, Mapping):
        raise ConfigError("model.name", FOREIGN, "same must be a dictionary of names")
    for names in hints.items():
        for side, name in zip(SIDES, names, strict=True):
            if not any(is_below(tensor.name, str(name)) for tensor in tensors[side]):
                reason = f"same: the {side} model has no parameter {name}, and none below it"
                raise ConfigError("model.name", FOREIGN, reason)


def find_other_constants(
    matches: Sequence[Match], own: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, list[list[Any]]]:
    """Return the tensors that no step trains and that the two models were made with other values.

    By kind: ``buffers``, which are part of the function, and ``frozen`` parameters.
    """
    carried = prove.carry_back(matches, own["tensorflow"])
    found: dict[str, list[list[Any]]] = {"buffers": [], "frozen": []}
    for match in matches:
        if match.a.trained or match.b.trained:
            continue
        one, other = own["torch"][match.a.path], carried[match.a.path]
        apart = float(np.abs(one - other).max(initial=0.0))
        if not apart <= 1e-6 * max(float(np.abs(one).max(initial=0.0)), 1e-30):
            kind = "buffers" if match.a.is_buffer else "frozen"
            found[kind].append([match.a.name, match.b.name, apart])
    return found


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


def find_draws(
    sides: Mapping[str, Any], models: Mapping[str, Any], proof: prove.Proof, rows: np.ndarray
) -> Drawn:
    """Return what dropout draws in a training pass, and which draws belong together."""
    package = find_pair(FOREIGN).package
    modules = {side: importlib.import_module(f"{package}.{side}") for side in SIDES}
    shapes = {side: modules[side].list_draws(models[side], rows) for side in SIDES}
    values = sides["torch"].read_tensors(models["torch"])
    torch, tensorflow = models["torch"], models["tensorflow"]

    def outputs_a(draws: Sequence[Draw], numbers: Sequence[np.ndarray]) -> np.ndarray:
        torch.prepared = dataclasses.replace(torch.prepared, draws=draws)
        sides["torch"].write_tensors(torch, values)
        result: np.ndarray = modules["torch"].train_outputs(torch, rows, numbers)
        return result

    def outputs_b(arrays: Mapping[str, np.ndarray], numbers: Sequence[np.ndarray]) -> np.ndarray:
        sides["tensorflow"].write_tensors(tensorflow, arrays)
        result: np.ndarray = modules["tensorflow"].train_outputs(tensorflow, rows, numbers)
        return result

    def alternatives() -> list[list[Match]]:
        sides["torch"].write_tensors(torch, values)
        wanted = sides["torch"].differentiate(torch, rows, None)[0]

        def holds(matches: Sequence[Match]) -> bool:
            sides["tensorflow"].write_tensors(tensorflow, prove.carry(matches, values))
            outputs = sides["tensorflow"].differentiate(tensorflow, rows, None)[0]
            return prove.measure(wanted, outputs) <= proof.near

        return [matches for matches in prove.list_neighbours(proof.matches)[:100] if holds(matches)]

    drawn = settle_draws(
        proof, shapes["torch"], shapes["tensorflow"], values=values, outputs_a=outputs_a,
        outputs_b=outputs_b, alternatives=alternatives,
    )  # fmt: skip
    sides["torch"].write_tensors(torch, values)
    sides["tensorflow"].write_tensors(tensorflow, prove.carry(drawn.matches, values))
    return drawn


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
    drawn: Drawn,
    constants: Mapping[str, Any],
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
        "draws": [[list(d.shape), None if d.axes is None else list(d.axes)] for d in drawn.draws],
        "draw_order": drawn.order,
        "optimizers": optimizers,
        "settings": [
            [each.a_layer.removeprefix("module."), *each[1:]]
            for each in [*differences, *compare_optimizers(optimizers)]
        ],
        "constants": constants,
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
