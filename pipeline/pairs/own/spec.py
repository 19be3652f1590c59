"""The framework-free half of a pair that is not ours: its settings, and what is refused of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pipeline.config.types import ConfigError
from pipeline.pairs.own.prepared import Prepared
from pipeline.pairs.own.source import find_files, has_function, list_names

IS_FOREIGN = True
INITS = ("torch", "tensorflow")
EXECUTION = ("eager",)
LOOPS = ("manual", "native")

Text = Annotated[str, Field(min_length=1, max_length=4096)]


def settings(
    *,
    path: Annotated[Text | None, Field()],
    torch: Annotated[Text | None, Field()],
    tensorflow: Annotated[Text | None, Field()],
    settings: Annotated[dict[str, dict[str, Any]], Field()],
    weights: Annotated[Text | None, Field()],
    map: Annotated[Text | None, Field()],
    inputs: Annotated[dict[str, dict[str, Any]] | None, Field()],
    train: Annotated[bool, Field()],
) -> None:
    """Have the settings of ``model=own``.

    Parameters
    ----------
    path
        A pair file.
    torch, tensorflow
        Instead of it, ``package.module:factory`` for each side.
    settings
        By side, the keyword arguments of its factory.
    weights
        A checkpoint that both sides start from, of PyTorch or of Keras by its suffix; None starts
        from a side's own draw.
    map
        A ``map.yaml`` that is proved instead of one that is proposed; None proposes one.
    inputs
        By name what a sample holds, where the pair makes no batches: random numbers of that kind
        are drawn for it.
    train
        Whether training is judged, too. Without it both models stay in evaluation mode, and the
        rungs are those of inference.
    """


ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


def optimizer() -> None:
    """Have the settings of ``optimizer=own``: none.

    The optimizers that the pair brings have theirs in its code; without them it is Adam with the
    numbers of its paper, `ADAM`.
    """


# Whose checkpoints end with what. Nothing is unpickled: a .pt file is read with weights_only.
SUFFIXES = {
    ".safetensors": "torch", ".pt": "torch", ".weights.h5": "tensorflow", ".keras": "tensorflow",
}  # fmt: skip


def find_suffix(weights: str) -> str | None:
    """Return the suffix of a checkpoint that is a known one; None if it is not."""
    return next((suffix for suffix in SUFFIXES if weights.endswith(suffix)), None)


def masks(
    rng: np.random.Generator, *, batch: int, prepared: Prepared, **others: Any
) -> list[np.ndarray]:
    """Draw the numbers that dropout takes in both models, between 0 and 1, for one batch.

    Odd multiples of 2⁻²¹: exact in float32, and so is one minus them.
    """
    return [
        (rng.integers(0, 2**20, size=(batch, *draw.shape)) + 0.5) / 2**20 for draw in prepared.draws
    ]


def check(given: Mapping[str, Any]) -> None:
    """Refuse settings that name no two models; imports nothing of them.

    Raises
    ------
    ConfigError
        Naming the first key that is wrong.
    """
    by_import = [given[side] for side in INITS]
    if given["path"] is None and None in by_import:
        raise ConfigError(
            "model.path", "null",
            "model=own needs a pair file, or model.torch and model.tensorflow as module:factory",
        )  # fmt: skip
    if given["path"] is not None and by_import != [None, None]:
        raise ConfigError("model.path", given["path"], "goes without model.torch and .tensorflow")
    unknown = sorted(set(given["settings"]) - set(INITS))
    if unknown:
        raise ConfigError(f"model.settings.{unknown[0]}", given["settings"][unknown[0]],
                          "must be settings of torch or tensorflow")  # fmt: skip
    weights = given["weights"]
    if weights is not None and find_suffix(weights) is None:
        known = ", ".join(SUFFIXES)
        raise ConfigError("model.weights", weights, f"must be a file that ends with {known}")
    if weights is not None and not Path(weights).is_file():
        raise ConfigError("model.weights", weights, "is no file")
    if given["map"] is not None and not Path(given["map"]).is_file():
        raise ConfigError("model.map", given["map"], "is no file")
    for name, one in (given["inputs"] or {}).items():
        reason = find_wrong_input(one)
        if reason:
            raise ConfigError(f"model.inputs.{name}", one, reason)
    if given["inputs"] and has_function(given, "batches"):
        raise ConfigError("model.inputs", given["inputs"], "goes without batches(rng) of the pair")
    for side, (key, text, file, factory) in find_files(given).items():
        try:
            names = list_names(file)
        except (SyntaxError, UnicodeDecodeError, ValueError) as error:
            line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
            raise ConfigError(key, text, f"is no Python: {error}{line}") from None
        if names is not None and factory not in names:
            raise ConfigError(key, text, f"has no {factory}(), which makes the {side} model")


_KINDS = ("float32", "int32", "int64", "bool")


def find_wrong_input(one: Mapping[str, Any]) -> str:
    """Return what is wrong with how an input is described; nothing if it is right."""
    shape, kind, ends = one.get("shape"), one.get("dtype", "float32"), one.get("range")
    if set(one) - {"shape", "dtype", "range"}:
        return "must have shape, and may have dtype and range"
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**20 for n in shape):
        return "shape must be a list of lengths, of one sample"
    if kind not in _KINDS:
        return f"dtype must be one of {', '.join(_KINDS)}"
    ends = [] if ends is None else ends
    is_range = isinstance(ends, list) and all(type(end) in (int, float) for end in ends)
    if not is_range or (ends and not (len(ends) == 2 and -(2**24) <= ends[0] < ends[1] <= 2**24)):
        return "range must be two numbers that rise, at most 2**24"
    if kind.startswith("int") and not (ends and {type(end) for end in ends} == {int}):
        return "integers need a range of integers, without its end"
    return ""
