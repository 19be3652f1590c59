"""The model with a data-dependent depth in TensorFlow."""

import keras
import tensorflow as tf

from pipeline.pairs.pair import Place
from pipeline.watching import seen


@keras.saving.register_keras_serializable(package="twingrad")
class Dynamic(keras.Model):
    """A layer, one shared layer again and again until each sample settles, and a linear layer.

    A sample that has settled stays as it is, so its output does not depend on the others beside it.
    """

    def __init__(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        width: int,
        most: int,
        tolerance: float,
        **kwargs,
    ) -> None:
        """Make the layers for samples of shape `inputs` and `outputs` values.

        Parameters
        ----------
        width
            Units of the shared layer.
        most
            The most times that it is applied.
        tolerance
            The relative change of a sample's state below which it has settled.
        """
        super().__init__(**kwargs)
        self.settings = {
            "inputs": list(inputs), "outputs": outputs, "width": width, "most": most,
            "tolerance": tolerance,
        }  # fmt: skip
        self.most, self.tolerance = most, tolerance
        self.first = keras.layers.Dense(width, use_bias=True, dtype=self.dtype_policy)
        self.again = keras.layers.Dense(width, use_bias=True, dtype=self.dtype_policy)
        self.out = keras.layers.Dense(outputs, use_bias=True, dtype=self.dtype_policy)
        self.first.build((None, inputs[0]))
        self.again.build((None, width))
        self.out.build((None, width))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, features)``."""
        h, _ = self.settle(x)
        return self.out(seen("settled", h))

    def settle(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return each sample's last state, and how often the shared layer was applied to it."""
        h = tf.tanh(self.first(x))
        moving = tf.fill((len(x), 1), True)
        applied = tf.zeros((len(x), 1), dtype=tf.int64)
        rounds = 0
        while rounds < self.most and tf.reduce_any(moving):
            rounds += 1
            h = seen(f"state{rounds}", h)
            new = tf.tanh(self.again(h))
            change = tf.reduce_sum(tf.square(new - h), axis=-1, keepdims=True)
            length = tf.reduce_sum(tf.square(new), axis=-1, keepdims=True)
            h = tf.where(moving, new, h)
            applied = applied + tf.cast(moving, applied.dtype)
            moving = moving & (change > self.tolerance**2 * length)
        return h, applied

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Dynamic) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {
        "first.w": Place("first.kernel"),
        "first.b": Place("first.bias"),
        "again.w": Place("again.kernel"),
        "again.b": Place("again.bias"),
        "out.w": Place("out.kernel"),
        "out.b": Place("out.bias"),
    }
