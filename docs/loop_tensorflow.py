"""The article's experiment in TensorFlow, whole: data, model, loop and update in one file.

Written by ``docs/loops.py`` (``make docs``) out of the program's source; a test holds every step
to the program's, bit by bit. Read it beside ``loop_torch.py``: both have the same order.

    python docs/loop_tensorflow.py                   prints the loss, w and b
    python docs/loop_tensorflow.py trajectory.npz    saves every step of them as well
"""

import hashlib
import sys
from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

# What ``experiment=article`` sets.
SEED = 0
DATA = {"n": 200, "n_test": 1000, "m": 0.1, "b": 0.3, "noise": 0.15, "low": -10.0, "high": 10.0}
EPOCHS = 500
LOG_EVERY = 20
RATE = 0.001


# Data: pipeline/seeds.py and pipeline/data/synthetic.py
def stream(seed, name):
    """Return the generator of one named stream of a seed."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4")
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in words))
    return np.random.Generator(np.random.PCG64(sequence))


def linear(stream, *, n, n_test, m, b, noise, low, high):
    """Points about a line: ``y = m·x + b + ε``, ``x ~ U(low, high)``, ``ε ~ N(0, noise)``."""
    arrays = {}
    for split, count in (("train", n), ("test", n_test)):
        rng = stream(f"data.{split}")
        x = rng.uniform(low, high, size=(count, 1))
        arrays[f"x_{split}"] = x
        arrays[f"y_{split}"] = m * x + b + rng.normal(0.0, noise, size=(count, 1))
    return arrays, {"truth": {"w": m, "b": b}, "noise": noise}


# Model: pipeline/pairs/builtin/linear/tensorflow.py, and its first values from spec.py beside it
@keras.saving.register_keras_serializable(package="twingrad")
class Linear(keras.Model):
    """``x·w + b`` with two scalar parameters.

    `add_weight` is what makes ``trainable_variables`` find them. The article's plain
    ``self.w = tf.Variable(...)`` worked in Keras 2; Keras 3 tracks only its own variables, the list
    stays empty, and nothing is trained.
    """

    def __init__(self, *, inputs: tuple[int, ...], outputs: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.settings = {"inputs": list(inputs), "outputs": outputs}
        start = keras.initializers.RandomUniform(-0.1, 0.1)
        self.w = self.add_weight(shape=(), initializer=start, name="w")
        self.b = self.add_weight(shape=(), initializer=start.clone(), name="b")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * self.w + self.b

    def get_config(self) -> dict:
        return {**super().get_config(), **self.settings}


def first_values(rng, *, inputs, outputs):
    """Draw ``w`` and ``b``, both of shape ``()``, from ``U(-0.1, 0.1)`` as the article does."""
    return {name: np.asarray(rng.uniform(-0.1, 0.1)) for name in ("w", "b")}


# Loss: pipeline/losses.py, with the framework's own functions
OPS = SimpleNamespace(mean=tf.reduce_mean, square=tf.square)


def mse(prediction, target, *, ops):
    """Mean squared error, ``mean((ŷ − y)²)``, without the factor ½ of some textbooks."""
    return ops.mean(ops.square(prediction - target))


# Update: pipeline/optimizers.py
def gd(w, g, slots, *, lr, sqrt):
    """Gradient descent, ``w ← w − lr·g``; no momentum, no decay."""
    w -= lr * g
    return w, slots


# Loop: written for this file
def load(model, values):
    """Put NumPy's first values into the parameters, which makes them float32."""
    for name, value in values.items():
        getattr(model, name).assign(value)


def read(model):
    """Return the parameters by name; how a framework finds them is part of the comparison."""
    return {v.name: v.numpy() for v in model.trainable_variables}


def step(model, x, y):
    """Forward, gradients, update by hand; return the loss from before the update."""
    with tf.GradientTape() as tape:
        value = mse(model(x), y, ops=OPS)
    gradients = tape.gradient(value, model.trainable_variables)
    for v, g in zip(model.trainable_variables, gradients, strict=True):
        w, _ = gd(tf.convert_to_tensor(v), g, (), lr=RATE, sqrt=tf.sqrt)  # a new tensor
        v.assign(w)
    return value.numpy()


def main():
    """Train, print, and save the trajectory where a path is given."""
    tf.config.threading.set_intra_op_parallelism_threads(1)  # the order of a sum may depend on it
    tf.config.threading.set_inter_op_parallelism_threads(1)
    arrays, facts = linear(partial(stream, SEED), **DATA)
    x, y = (tf.constant(arrays[key].astype("float32")) for key in ("x_train", "y_train"))
    model = Linear(inputs=(1,), outputs=1)
    load(model, first_values(stream(SEED, "init"), inputs=(1,), outputs=1))

    losses, rows = [], [read(model)]
    for epoch in range(1, EPOCHS + 1):
        losses.append(step(model, x, y))
        rows.append(read(model))
        if epoch % LOG_EVERY == 0:
            w, b = rows[-1].values()
            print(f"epoch {epoch:4d}  loss {losses[-1]:.6f}  w {w:.6f}  b {b:.6f}")
    print(f"true values: {facts['truth']}")

    if len(sys.argv) > 1:
        path = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        np.savez(sys.argv[1], loss=np.array(losses), **path)


if __name__ == "__main__":
    main()
