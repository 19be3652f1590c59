"""Softmax regression in TensorFlow."""

import keras
import tensorflow as tf

from pipeline.pairs.pair import Place


@keras.saving.register_keras_serializable(package="twingrad")
class Softmax(keras.Model):
    """The logits ``x·w + b``; both parameters are laid out as the neutral ones."""

    def __init__(self, *, inputs: tuple[int, ...], outputs: int, **kwargs) -> None:
        """Make ``w`` and ``b`` for samples of shape `inputs` and `outputs` logits."""
        super().__init__(**kwargs)
        self.settings = {"inputs": list(inputs), "outputs": outputs}
        self.w = self.add_weight(shape=(inputs[0], outputs), initializer="zeros", name="w")
        self.b = self.add_weight(shape=(outputs,), initializer="zeros", name="b")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return logits of shape ``(n, outputs)`` of samples of shape ``(n, features)``."""
        return x @ self.w + self.b

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Softmax) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {"w": Place("w"), "b": Place("b")}
