"""The recurrent network in TensorFlow."""

import keras
import tensorflow as tf

from pipeline.pairs.builtin.rnn.spec import GATES
from pipeline.pairs.pair import Place
from pipeline.watching import seen


@keras.saving.register_keras_serializable(package="twingrad")
class Rnn(keras.Model):
    """A GRU or LSTM cell, written out, over the rows of a sample; the last state goes out."""

    def __init__(
        self, *, inputs: tuple[int, ...], outputs: int, cell: str, width: int, **kwargs
    ) -> None:
        """Make the cell, ``gru`` or ``lstm`` with a state of `width` values, and the last layer.

        Samples have shape `inputs`, ``(times, features)``; each gives `outputs` values.
        """
        super().__init__(**kwargs)
        self.settings = {"inputs": list(inputs), "outputs": outputs, "cell": cell, "width": width}
        self.cell, self.width = cell, width
        self.kernel = self.draw(inputs[1], GATES[cell] * width, name="kernel")
        self.recurrent = self.draw(width, GATES[cell] * width, name="recurrent")
        self.bias = self.draw(GATES[cell] * width, name="bias")
        if cell == "gru":
            self.inner = self.draw(width, name="inner")
        self.out_w = self.draw(width, outputs, name="out_w")
        self.out_b = self.draw(outputs, name="out_b")
        self.built = True

    def draw(self, *shape: int, name: str) -> keras.Variable:
        """Return a variable drawn as Keras's kernels are, or zero as its biases."""
        start = "glorot_uniform" if len(shape) > 1 else "zeros"
        return self.add_weight(shape=shape, initializer=start, name=name)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, times, features)``."""
        given = x @ self.kernel + self.bias
        state = tf.zeros_like(given[:, 0, : self.width])
        memory = state
        for t, row in enumerate(tf.unstack(given, axis=1), start=1):
            if self.cell == "gru":
                state = self.gru(row, state)
            else:
                state, memory = self.lstm(row, state, memory)
            state = seen(f"state{t}", state)
        return state @ self.out_w + self.out_b

    def gru(self, row: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """One step; the reset gate acts after the recurrent product, as in cuDNN."""
        z, r, c = tf.split(row, 3, axis=1)
        from_z, from_r, from_c = tf.split(state @ self.recurrent, 3, axis=1)
        z, r = tf.sigmoid(z + from_z), tf.sigmoid(r + from_r)
        candidate = tf.tanh(c + r * (from_c + self.inner))
        return z * state + (1 - z) * candidate

    def lstm(
        self, row: tf.Tensor, state: tf.Tensor, memory: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One step."""
        i, f, c, o = tf.split(row + state @ self.recurrent, 4, axis=1)
        memory = tf.sigmoid(f) * memory + tf.sigmoid(i) * tf.tanh(c)
        return tf.sigmoid(o) * tf.tanh(memory), memory

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Rnn) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    names = ["kernel", "recurrent", "bias"] + ["inner"] * (model.cell == "gru")
    placed = {name: Place(name) for name in names}
    return placed | {"out.w": Place("out_w"), "out.b": Place("out_b")}
