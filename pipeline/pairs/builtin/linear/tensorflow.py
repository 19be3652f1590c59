"""The from-scratch pair in TensorFlow."""

import keras
import tensorflow as tf

from pipeline.pairs.pair import Place


@keras.saving.register_keras_serializable(package="twingrad")
class Linear(keras.Model):
    """``x·w + b`` with two scalar parameters.

    `add_weight` is what makes ``trainable_variables`` find them. The article's plain
    ``self.w = tf.Variable(...)`` worked in Keras 2; Keras 3 tracks only its own variables, the list
    stays empty, and nothing is trained.
    """

    def __init__(self, *, inputs: tuple[int, ...], outputs: int, **kwargs) -> None:
        """Make ``w`` and ``b``; `inputs` is ``(1,)`` and `outputs` 1, the only ones it takes."""
        super().__init__(**kwargs)
        self.settings = {"inputs": list(inputs), "outputs": outputs}
        start = keras.initializers.RandomUniform(-0.1, 0.1)
        self.w = self.add_weight(shape=(), initializer=start, name="w")
        self.b = self.add_weight(shape=(), initializer=start.clone(), name="b")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return the predictions of samples of shape ``(n, 1)``, also of shape ``(n, 1)``."""
        return x * self.w + self.b

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Linear) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {"w": Place("w"), "b": Place("b")}
