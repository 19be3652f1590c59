"""The layer pair in TensorFlow."""

import keras
import tensorflow as tf

from pipeline.pairs.pair import Place


@keras.saving.register_keras_serializable(package="twingrad")
class Dense(keras.Model):
    """One `keras.layers.Dense`; its kernel is ``(inputs, outputs)``, as the neutral one."""

    def __init__(self, *, inputs: tuple[int, ...], outputs: int, **kwargs) -> None:
        """Make the layer for samples of shape `inputs` and targets of `outputs` values."""
        super().__init__(**kwargs)
        self.settings = {"inputs": list(inputs), "outputs": outputs}
        self.layer = keras.layers.Dense(outputs, use_bias=True, dtype=self.dtype_policy)
        self.layer.build((None, inputs[0]))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return predictions of shape ``(n, outputs)`` of samples of shape ``(n, features)``."""
        return self.layer(x)

    def get_config(self) -> dict:
        """Return the arguments of `__init__`, with which Keras makes a saved model again."""
        return {**super().get_config(), **self.settings}


def name_map(model: Dense) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {"w": Place("layer.kernel"), "b": Place("layer.bias")}
