"""The polynomial in TensorFlow."""

import keras
import tensorflow as tf

from pipeline.pairs.pair import Place


@keras.saving.register_keras_serializable(package="twingrad")
class Polynomial(keras.Model):
    """``c0 + c1·x + … + c_degree·x^degree`` by Horner's rule, with no layer."""

    def __init__(self, *, inputs: tuple[int, ...], outputs: int, degree: int, **kwargs) -> None:
        """Make the coefficients; `inputs` is ``(1,)`` and `outputs` 1, the only ones it takes."""
        super().__init__(**kwargs)
        self.settings = {"inputs": list(inputs), "outputs": outputs, "degree": degree}
        start = keras.initializers.RandomUniform(-0.1, 0.1)
        self.c = self.add_weight(shape=(degree + 1,), initializer=start, name="c")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return the predictions of samples of shape ``(n, 1)``, also of shape ``(n, 1)``."""
        *lower, y = tf.unstack(self.c)
        for c_k in reversed(lower):
            y = y * x + c_k
        return y

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Polynomial) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {"c": Place("c")}
