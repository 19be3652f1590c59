"""The multilayer perceptron in TensorFlow."""

import math
from collections.abc import Sequence
from functools import partial

import keras
import tensorflow as tf

from pipeline.pairs.pair import Place
from pipeline.watching import seen


def _gelu(x: tf.Tensor) -> tf.Tensor:
    """The exact one, with erf; `tf.nn.gelu` has its √2 in float32 also where x has float64."""
    return 0.5 * x * (1 + tf.math.erf(x * math.sqrt(0.5)))


ACTIVATIONS = {
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "gelu": _gelu,
}


@keras.saving.register_keras_serializable(package="twingrad")
class Mlp(keras.Model):
    """Fully connected layers: ``linear → norm → activation → dropout`` for each, then a linear."""

    def __init__(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        widths: Sequence[int],
        activation: str,
        norm: str,
        norm_epsilon: float,
        norm_decay: float,
        dropout: float,
        **kwargs,
    ) -> None:
        """Make the layers for samples of shape `inputs` and `outputs` values.

        Parameters
        ----------
        widths
            Units of each hidden layer.
        activation, norm
            Names of what follows each linear; `norm` may be ``none``.
        norm_epsilon, norm_decay
            What a norm adds to the variance, and what running statistics keep of themselves.
        dropout
            The share of units that is dropped; the masks are given to the forward pass.
        """
        super().__init__(**kwargs)
        self.settings = {
            "inputs": list(inputs), "outputs": outputs, "widths": list(widths),
            "activation": activation, "norm": norm, "norm_epsilon": norm_epsilon,
            "norm_decay": norm_decay, "dropout": dropout,
        }  # fmt: skip
        sizes = [inputs[0], *widths]
        bias = norm != "batch"
        self.activation = ACTIVATIONS[activation]
        dtype = self.dtype_policy
        self.hidden = [keras.layers.Dense(width, use_bias=bias, dtype=dtype) for width in widths]
        if norm == "batch":
            make = partial(keras.layers.BatchNormalization, axis=-1, momentum=norm_decay)
        else:
            make = partial(keras.layers.LayerNormalization, axis=-1)
        make = partial(make, epsilon=norm_epsilon, center=True, scale=True, dtype=dtype)
        self.norms = [make() for _ in widths if norm != "none"]
        self.out = keras.layers.Dense(outputs, use_bias=True, dtype=dtype)
        for before, layer in zip(sizes, [*self.hidden, self.out], strict=True):
            layer.build((None, before))
        for width, layer in zip(widths, self.norms, strict=False):
            layer.build((None, width))
        self.built = True

    def call(self, x: tf.Tensor, *masks: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, features)``.

        There is a mask of shape ``(n, width)`` for each hidden layer, or none without dropout.
        """
        for k, layer in enumerate(self.hidden, start=1):
            x = seen(f"layer{k}", layer(x))
            if self.norms:
                x = seen(f"norm{k}", self.norms[k - 1](x, training=training))
            x = seen(f"activation{k}", self.activation(x))
            if masks:
                x = seen(f"dropout{k}", x * masks[k - 1])
        return self.out(x)

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Mlp) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    placed = {}
    for k, layer in enumerate(model.hidden, start=1):
        placed[f"layer{k}.w"] = Place(f"hidden.{k - 1}.kernel")
        if layer.bias is not None:
            placed[f"layer{k}.b"] = Place(f"hidden.{k - 1}.bias")
        if model.norms:
            placed |= norm_map(model.norms[k - 1], f"norm{k}", f"norms.{k - 1}")
    return placed | {"out.w": Place("out.kernel"), "out.b": Place("out.bias")}


def norm_map(norm: keras.layers.Layer, name: str, path: str) -> dict[str, Place]:
    """Return where the parameters of one normalisation live, itself being at a path."""
    if isinstance(norm, keras.layers.LayerNormalization):
        return {f"{name}.scale": Place(f"{path}.gamma"), f"{name}.shift": Place(f"{path}.beta")}
    return {
        f"{name}.scale": Place(f"{path}.gamma"),
        f"{name}.shift": Place(f"{path}.beta"),
        f"{name}.mean": Place(f"{path}.moving_mean", None, "statistic"),
        f"{name}.variance": Place(f"{path}.moving_variance", None, "statistic"),
    }
