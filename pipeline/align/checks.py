"""What is refused of two models that are not ours, once they are made and have been called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.align.propose import is_below
from pipeline.config.types import ConfigError
from pipeline.pairs.own.source import SIDES, brings, load_hints
from pipeline.pairs.registry import FOREIGN


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
    if not given["train"]:
        return
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


def read_classes(y: np.ndarray, *, classes: int) -> np.ndarray:
    """Return integer targets as class numbers of shape ``(n, 1)``, which the outputs must have."""
    numbers = y.astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= classes:
        raise ConfigError(
            "data.name", "own",
            f"batches(rng): y has the class {int(numbers.max())}, the models {classes} outputs",
        )  # fmt: skip
    return numbers
