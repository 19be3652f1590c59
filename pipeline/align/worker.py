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
from typing import Any

import numpy as np

from pipeline import backends, data, seeds
from pipeline.align import batches, prove
from pipeline.align.checks import check_outputs, check_own_losses, check_tensors, read_classes
from pipeline.align.draws import Drawn, settle_draws
from pipeline.align.files import Samples, read_map, write_pair
from pipeline.align.propose import Match, find_regroups, propose, sort_by_calls
from pipeline.align.settings import compare_settings
from pipeline.backends.base import Tensor
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import to_neutral
from pipeline.pairs.own.prepared import Draw, Prepared, Regroup
from pipeline.pairs.own.source import (
    SIDES,
    brings,
    find_files,
    load_batches,
    load_hints,
    run,
    tell_error,
)
from pipeline.pairs.own.spec import SUFFIXES, find_suffix
from pipeline.pairs.registry import FOREIGN, find_pair
from pipeline.watching import Shown, watched

WIDE, NARROW = "float64", "float32"


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
    trains = request["model"]["train"]
    if not trains:  # a target is of no use to inference
        samples = samples._replace(y=None)
    prepared = Prepared(x=samples.x, y=samples.y, sample=samples.rows, trains=trains)
    models = {name: build(name, request, prepared) for name in SIDES}
    outputs = {name: sides[name].differentiate(models[name], samples.rows, None)[0]
               for name in SIDES}  # fmt: skip
    check_outputs(outputs, rows=len(samples.rows))
    check_own_losses(request, models["tensorflow"])
    hints = load_hints(request["model"])
    tensors = {name: sides[name].list_tensors(models[name]) for name in SIDES}
    check_tensors(request, tensors)
    initial = {name: sides[name].read_tensors(models[name]) for name in SIDES}
    start = load_checkpoint(request, sides, models) or request["init"]
    regroups = find_safe_regroups(request, models["torch"], tensors, hints)
    models["torch"].regroup(regroups)
    tensors = list_tensors(sides, models, samples.rows)
    matches = read_map(request, tensors) or propose(
        tensors["torch"], tensors["tensorflow"], same=hints
    )
    if not matches:
        raise ConfigError("model.name", FOREIGN, "the two models have no parameter in common")
    own = {name: sides[name].read_tensors(models[name]) for name in SIDES}
    proof = prove_map(sides, models, tensors, matches, samples.rows, near=prove.NEARS[dtype])
    if request["map"] is not None and (proof.changed or not proof.holds):
        other = f"; one that holds has other partners for {', '.join(proof.changed)}"
        raise ConfigError(
            "model.map", request["model"]["map"],
            f"does not hold with random weights{other if proof.changed else ''}",
        )  # fmt: skip
    drawn = find_draws(sides, models, proof, samples.rows)
    proof = dataclasses.replace(proof, matches=drawn.matches)
    if proof.holds:
        weights = np.random.default_rng(3).standard_normal(outputs["torch"].shape)
        gradients = [sides[n].differentiate(models[n], samples.rows, weights)[1] for n in SIDES]
        proof = dataclasses.replace(
            proof, gradient=prove.compare_gradients(proof.matches, *gradients)
        )
    carried = {"torch": own["torch"]}
    carried["tensorflow"] = prove.carry_back(proof.matches, own["tensorflow"])
    first = {m.a.name: np.asarray(carried[start][m.a.path], np.float64) for m in proof.matches}
    digest = write_samples(
        folder, request, arrays=arrays, rows=rows_of_batch, samples=samples,
        output=outputs["torch"],
    )  # fmt: skip
    layers, misfits = find_layers(sides, models, proof, samples.rows)
    optimizers = describe_optimizers(request, models)
    differences = compare_settings(
        proof.matches, *(sides[name].list_settings(models[name]) for name in SIDES)
    )
    write_pair(
        folder, first=first, samples=samples, digest=digest, proof=proof, tensors=tensors,
        differences=differences, layers=layers, misfits=misfits, trains=trains,
        optimizers=optimizers, drawn=drawn,
        constants=find_other_constants(proof.matches, initial), regroups=regroups,
    )  # fmt: skip


def find_safe_regroups(
    request: Mapping[str, Any],
    model: Any,
    tensors: Mapping[str, Sequence[Tensor]],
    hints: Mapping[str, str],
) -> list[Regroup]:
    """Return what is to be held in parts or together, where nobody else looks at the parameters.

    The pair's own loss and optimizer may tell parameters apart by name, shape or layer, a hook
    changes the gradient of one, and a tied one has several owners: there none is replaced, and the
    rung `structure` abstains.
    """
    if any(brings(request["model"], group, request[group]) for group in ("loss", "optimizer")):
        return []
    groups = find_regroups(tensors["torch"], tensors["tensorflow"], same=hints)
    return [group for group in groups if model.can_regroup(group)]


def list_tensors(
    sides: Mapping[str, Any], models: Mapping[str, Any], rows: np.ndarray
) -> dict[str, list[Tensor]]:
    """Return both models' tensors by side, in the order in which their layers are called."""
    return {
        name: sort_by_calls(
            sides[name].list_tensors(models[name]), sides[name].list_calls(models[name], rows)
        )
        for name in SIDES
    }


def build(name: str, request: Mapping[str, Any], prepared: Prepared) -> Any:
    """Make one side's model."""
    side = find_pair(FOREIGN).load_side(name)
    inputs = prepared.sample.shape[1:]
    settings = {key: value for key, value in request["model"].items() if key != "inputs"}
    return side.model(inputs=inputs, outputs=0, prepared=prepared, **settings)


def read_samples(
    folder: Path, request: Mapping[str, Any]
) -> tuple[dict[str, dict[str, np.ndarray]], int, Samples]:
    """Return the pair's own batches by split, the rows of one, and some rows of samples."""
    if isinstance(request["data"], str):
        return {}, 0, Samples([], [], np.load(folder / "sample.npy", allow_pickle=False))
    function, inputs = load_batches(request["model"]), request["model"]["inputs"]
    if function is None and inputs:
        function = partial(batches.draw_inputs, inputs=inputs)
    if function is None:
        reason = "the pair has no batches(rng); give model.inputs, or data=..."
        raise ConfigError("data.name", "own", reason)
    arrays, rows = {}, 0
    train = request["data"]["batches"] if request["model"]["train"] else 1
    for split, count in (("train", train), ("test", 1)):
        rng = seeds.stream(request["seed"], f"own.{split}")
        take = partial(batches.take_batches, function, rng, count=count)
        arrays[split], rows, _ = run(find_files(request["model"])["torch"], take)
    x, y = batches.split_fields(arrays["train"])
    return (
        arrays,
        rows,
        Samples(x, y, batches.to_rows(arrays["train"], x, name="x")[: min(rows, 8)]),
    )


def load_checkpoint(
    request: Mapping[str, Any], sides: Mapping[str, Any], models: Mapping[str, Any]
) -> str | None:
    """Load the pair's checkpoint into the model of its framework, and return which that is."""
    path = request["model"]["weights"]
    if path is None:
        return None
    suffix = find_suffix(path)
    assert suffix is not None  # refused before
    side = SUFFIXES[suffix]
    try:
        sides[side].load_weights(models[side], path)
    except Exception as error:
        reason = f"does not fit the {side} model: {tell_error(error).partition(' (')[0]}"
        raise ConfigError("model.weights", path, reason) from None
    return side


def find_other_constants(
    matches: Sequence[Match], own: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, list[list[Any]]]:
    """Return the tensors that no step trains and that the two models were made with other values.

    By kind: ``buffers``, which are part of the function, and ``frozen`` parameters.
    """
    carried = prove.carry_back(matches, own["tensorflow"])
    differing: dict[str, list[list[Any]]] = {"buffers": [], "frozen": []}
    for match in matches:
        if match.a.trained or match.b.trained:
            continue
        one, other = own["torch"][match.a.path], carried[match.a.path]
        apart = float(np.abs(one - other).max(initial=0.0))
        if not apart <= 1e-6 * max(float(np.abs(one).max(initial=0.0)), 1e-30):
            kind = "buffers" if match.a.is_buffer else "frozen"
            differing[kind].append([match.a.name, match.b.name, apart])
    return differing


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
    numbered = {name: sides[name].number_layers(models[name]) for name in SIDES}
    with watched() as values_seen, torch.watch_layers(models["torch"], numbered["torch"]):
        outputs = torch.differentiate(models["torch"], rows, None)[0]
    wanted = prove.Shown(outputs, read_shown(torch, values_seen))

    def show(each: Sequence[Match], arrays: Mapping[str, np.ndarray]) -> prove.Shown:
        tensorflow.write_tensors(models["tensorflow"], arrays)
        partners = {m.a.layer: numbered["tensorflow"][m.b.layer] for m in each
                    if m.b.layer in numbered["tensorflow"]}  # fmt: skip
        with watched() as seen, tensorflow.watch_layers(models["tensorflow"], partners):
            made = tensorflow.differentiate(models["tensorflow"], rows, None)[0]
        return prove.Shown(made, read_shown(tensorflow, seen))

    def gradients(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        tensorflow.write_tensors(models["tensorflow"], arrays)
        weights = np.random.default_rng(4).standard_normal(outputs.shape)
        result: Mapping[str, np.ndarray] = tensorflow.differentiate(
            models["tensorflow"], rows, weights
        )[1]
        return result

    proof = prove.prove(
        matches, values=values, wanted=wanted, show=show, gradients=gradients, near=near
    )
    show(proof.matches, prove.carry(proof.matches, values))  # the models are left with it
    return proof


def read_shown(side: Any, shown: Shown) -> dict[str, np.ndarray]:
    """Return as arrays, in the neutral layout, what layers were seen to return."""
    return {name: to_neutral(axes, side.read(value)) for name, (value, axes) in shown.items()}


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

    drawn = settle_draws(
        proof, shapes["torch"], shapes["tensorflow"], values=values, outputs_a=outputs_a,
        outputs_b=outputs_b,
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
) -> tuple[dict[str, dict[str, Any]], list[list[Any]]]:
    """Return by side and neutral name the layers whose results can be compared, and misfits.

    They belong together by their parameters and return arrays of one shape; where the map is
    proved, the same values, too: what returns others there is called at another place. Misfits are
    layers that return as many axes of other lengths: their name, and both shapes.
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
        shown[side] = read_shown(sides[side], values)
    one, other = shown["torch"], shown["tensorflow"]
    comparable = [
        name for name in one
        if name in other and one[name].shape == other[name].shape
        and (not proof.holds or prove.measure(one[name], other[name]) <= proof.near)
    ]  # fmt: skip
    misfits = [
        [name, list(one[name].shape), list(other[name].shape)] for name in one
        if name in other and one[name].shape != other[name].shape
        and one[name].ndim == other[name].ndim
    ]  # fmt: skip
    return {
        side: {name: each[name] for name in comparable if name in each}
        for side, each in layers.items()
    }, misfits


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


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
