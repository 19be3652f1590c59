"""The encoder block in TensorFlow."""

from functools import partial

import keras
import tensorflow as tf

from pipeline.pairs.builtin.attention.spec import PARTS, sizes
from pipeline.pairs.builtin.mlp.tensorflow import norm_map
from pipeline.pairs.pair import Place
from pipeline.watching import seen


@keras.saving.register_keras_serializable(package="twingrad")
class Attention(keras.Model):
    """Embedded rows through one encoder block; their mean goes out.

    Shapes: N samples, T times, H heads, D values a head.
    """

    def __init__(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        width: int,
        heads: int,
        hidden: int,
        norm_epsilon: float,
        **kwargs,
    ) -> None:
        """Make the block for samples of shape `inputs` and `outputs` values.

        Parameters
        ----------
        width, hidden
            Values of an embedded row, and units of the feed-forward part.
        heads
            Heads of the attention, which divide `width`.
        norm_epsilon
            What a layer norm adds to the variance.
        """
        super().__init__(**kwargs)
        self.settings = {
            "inputs": list(inputs), "outputs": outputs, "width": width, "heads": heads,
            "hidden": hidden, "norm_epsilon": norm_epsilon,
        }  # fmt: skip
        self.split = (-1, inputs[0], heads, width // heads)
        start = keras.initializers.RandomNormal(0.0, 0.1)
        shape = (inputs[0], width)
        self.positions = self.add_weight(shape=shape, initializer=start, name="positions")
        for part, (before, after) in sizes(inputs, outputs, width=width, hidden=hidden).items():
            layer = keras.layers.Dense(after, use_bias=part != "key", dtype=self.dtype_policy)
            layer.build((None, None, before))
            setattr(self, part, layer)
        norm = partial(keras.layers.LayerNormalization, axis=-1, center=True, scale=True)
        self.norm1 = norm(epsilon=norm_epsilon, dtype=self.dtype_policy)
        self.norm2 = norm(epsilon=norm_epsilon, dtype=self.dtype_policy)
        self.norm1.build((None, None, width))
        self.norm2.build((None, None, width))
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, times, features)``."""
        x = seen("embed", self.embed(x) + self.positions)
        x = seen("norm1", self.norm1(x + seen("attend", self.attend(x))))
        up = seen("up", self.up(x))
        x = seen("norm2", self.norm2(x + self.down(tf.nn.relu(up))))
        return self.out(tf.reduce_mean(x, axis=1))

    def attend(self, x: tf.Tensor) -> tf.Tensor:
        """Multi-head self-attention."""
        q_NHTD = tf.transpose(tf.reshape(self.query(x), self.split), (0, 2, 1, 3))
        k_NHDT = tf.transpose(tf.reshape(self.key(x), self.split), (0, 2, 3, 1))
        v_NHTD = tf.transpose(tf.reshape(self.value(x), self.split), (0, 2, 1, 3))
        score_NHTT = seen("score", q_NHTD @ k_NHDT * self.split[-1] ** -0.5)
        weight_NHTT = tf.nn.softmax(score_NHTT, axis=-1)
        mixed = tf.transpose(weight_NHTT @ v_NHTD, (0, 2, 1, 3))
        return self.mix(tf.reshape(mixed, tf.shape(x)))

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Attention) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    placed = {"positions": Place("positions")}
    for part in PARTS:
        placed[f"{part}.w"] = Place(f"{part}.kernel")
        if part != "key":
            placed[f"{part}.b"] = Place(f"{part}.bias")
    for norm in ("norm1", "norm2"):
        placed |= norm_map(getattr(model, norm), norm, norm)
    return placed
