"""The convolutional network in TensorFlow."""

from collections.abc import Sequence
from functools import partial

import keras
import tensorflow as tf

from pipeline.pairs.builtin.cnn.spec import flattened
from pipeline.pairs.builtin.mlp.tensorflow import norm_map
from pipeline.pairs.pair import Place
from pipeline.watching import seen

POOLS = {"max": tf.nn.max_pool2d, "average": tf.nn.avg_pool2d}


@keras.saving.register_keras_serializable(package="twingrad")
class Cnn(keras.Model):
    """Blocks of ``convolution → batch norm → relu → pool``, then a linear layer."""

    def __init__(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        channels: Sequence[int],
        kernel: int,
        padding: str,
        pool: str,
        norm_epsilon: float,
        norm_decay: float,
        **kwargs,
    ) -> None:
        """Make the layers for images of shape `inputs` and `outputs` values.

        Parameters
        ----------
        channels
            Channels after each block.
        kernel, padding
            Side of the kernels; ``same`` or ``valid``.
        pool
            ``max`` or ``average``, of 2 by 2 pixels.
        norm_epsilon, norm_decay
            What a batch norm adds to the variance, and what running statistics keep of themselves.
        """
        super().__init__(**kwargs)
        self.settings = {
            "inputs": list(inputs), "outputs": outputs, "channels": list(channels),
            "kernel": kernel, "padding": padding, "pool": pool, "norm_epsilon": norm_epsilon,
            "norm_decay": norm_decay,
        }  # fmt: skip
        sizes, dtype = [inputs[-1], *channels], self.dtype_policy
        make = partial(
            keras.layers.Conv2D, kernel_size=kernel, strides=1, padding=padding, use_bias=False
        )
        self.convs = [make(width, dtype=dtype) for width in channels]
        norm = partial(keras.layers.BatchNormalization, axis=-1, center=True, scale=True)
        norm = partial(norm, momentum=norm_decay, epsilon=norm_epsilon, dtype=dtype)
        self.norms = [norm() for _ in channels]
        self.pool = partial(POOLS[pool], ksize=2, strides=2, padding="VALID")
        self.out = keras.layers.Dense(outputs, use_bias=True, dtype=dtype)
        for before, conv in zip(sizes, self.convs, strict=False):
            conv.build((None, None, None, before))
        for width, layer in zip(channels, self.norms, strict=True):
            layer.build((None, None, None, width))
        flat = flattened(tuple(inputs), channels=tuple(channels), kernel=kernel, padding=padding)
        self.out.build((None, flat))
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return outputs of shape ``(n, outputs)`` of images ``(n, height, width, colours)``."""
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            x = seen(f"conv{k}", conv(x))
            x = seen(f"norm{k}", norm(x, training=training))
            x = seen(f"pool{k}", self.pool(tf.nn.relu(x)))
        return self.out(tf.reshape(x, (-1, self.out.kernel.shape[0])))

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Cnn) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    placed = {}
    for k, norm in enumerate(model.norms, start=1):
        placed[f"conv{k}.kernel"] = Place(f"convs.{k - 1}.kernel")
        placed |= norm_map(norm, f"norm{k}", f"norms.{k - 1}")
    return placed | {"out.w": Place("out.kernel"), "out.b": Place("out.bias")}
