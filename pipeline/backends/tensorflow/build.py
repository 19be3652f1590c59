"""Making the model in TensorFlow: settings of the process, first values, reading back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.backends.tensorflow.start import quiet_start
from pipeline.backends.tensorflow.tensors import name_device
from pipeline.backends.tensorflow.variables import (
    find_variables,
    load_values,
)
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import to_neutral
from pipeline.pairs.pair import Side


def configure(*, threads: int, deterministic: bool, device: str, dtype: str, seed: int) -> str:
    """Set everything global, and return the device that ``auto`` means here."""
    with quiet_start():
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        available = "cuda" if tf.config.list_physical_devices("GPU") else "cpu"
        if device == "cuda" and available != "cuda":
            raise ConfigError("backend.device", device, "TensorFlow sees no GPU; use cpu or auto")
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        keras.config.set_floatx(dtype)
        keras.config.disable_interactive_logging()  # no progress bars of its own
        keras.config.set_dtype_policy(dtype)
        keras.utils.set_random_seed(seed)
        tf.zeros(())
    return available if device == "auto" else device


def build(
    twin: Side,
    *,
    values: Mapping[str, np.ndarray] | None,
    inputs: tuple[int, ...],
    outputs: int,
    settings: Mapping[str, Any],
    device: str,
    dtype: str,
) -> keras.Model:
    """Make the model and load neutral first values; None keeps the framework's own draw."""
    with tf.device(name_device(device)):
        model = twin.model(inputs=inputs, outputs=outputs, **settings)
    placed = find_variables(model, twin)
    if values is not None:
        load_values(placed, values)
    return model


def read(model: keras.Model, twin: Side) -> dict[str, np.ndarray]:
    """Return the parameters by neutral name, in the neutral layout and native precision."""
    return {
        name: to_neutral(place.axes, tf.convert_to_tensor(place.tensor).numpy())
        for name, place in find_variables(model, twin).items()
    }


def write(model: keras.Model, twin: Side, values: Mapping[str, np.ndarray]) -> None:
    """Put neutral values into the parameters, in the model's own precision."""
    load_values(find_variables(model, twin), values)


def versions() -> dict[str, str]:
    """Return versions and flags that can change the bits of a result."""
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "cuda": str(tf.sysconfig.get_build_info().get("cuda_version")),
    }
