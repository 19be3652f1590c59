"""What the operations of a call do: their floating types, and what draws from a generator."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import backends


def torch_calls():
    import torch

    layer = torch.nn.Linear(3, 2, dtype=torch.float64)
    x = torch.ones(4, 3, dtype=torch.float64)
    return {
        "plain": lambda: layer(x),
        "bfloat16": lambda: (layer(x).to(torch.bfloat16) * 2).to(torch.float64),
        "float32": lambda: layer(x).float().double(),
        "gradient": lambda: layer(x).to(torch.float16).double().sum().backward(),
        "dropout": lambda: torch.nn.functional.dropout(layer(x), 0.5, training=True),
        "normal": lambda: layer(x) + torch.randn(4, 2, dtype=torch.float64),
        "integers": lambda: (layer(x) > 0).long().sum(),
    }


def tensorflow_calls():
    import keras
    import tensorflow as tf

    layer = keras.layers.Dense(2, dtype="float64")
    layer.build((None, 3))
    x = tf.ones((4, 3), tf.float64)

    def gradient():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.cast(tf.cast(layer(x), tf.float16), tf.float64))
        tape.gradient(value, layer.trainable_variables)

    return {
        "plain": lambda: layer(x),
        "bfloat16": lambda: tf.cast(tf.cast(layer(x), tf.bfloat16) * 2, tf.float64),
        "float32": lambda: tf.cast(tf.cast(layer(x), tf.float32), tf.float64),
        "gradient": gradient,
        "dropout": lambda: tf.nn.dropout(layer(x), 0.5),
        "normal": lambda: layer(x) + tf.random.normal((4, 2), dtype=tf.float64),
        "integers": lambda: tf.reduce_sum(tf.cast(layer(x) > 0, tf.int64)),
    }


CALLS = {"torch": torch_calls, "tensorflow": tensorflow_calls}


@pytest.mark.parametrize(
    ("call", "narrow"),
    [("plain", ""), ("integers", ""), ("bfloat16", "bfloat16"), ("float32", "float32"),
     ("gradient", "float16")],
)  # fmt: skip
@pytest.mark.parametrize("backend", CALLS)
def test_a_narrower_type_is_seen_wherever_it_comes_in(backend, call, narrow):
    side = backends.load(backend)
    side.configure(threads=1, deterministic=True, device="cpu", dtype="float64", seed=0)
    found = side.observe(CALLS[backend]()[call])
    assert found.types == {"float64", narrow} - {""}
    assert not found.draws


@pytest.mark.parametrize("call", ["dropout", "normal"])
@pytest.mark.parametrize("backend", CALLS)
def test_what_draws_is_named(backend, call):
    side = backends.load(backend)
    side.configure(threads=1, deterministic=True, device="cpu", dtype="float64", seed=0)
    found = side.observe(CALLS[backend]()[call])
    assert found.draws
    words = {"dropout": ("dropout", "bernoulli", "rand"), "normal": ("normal", "rand")}[call]
    assert all(any(word in name.lower() for word in words) for name in found.draws)


@pytest.mark.parametrize("backend", CALLS)
def test_nothing_is_watched_after_the_call_also_if_it_fails(backend):
    side = backends.load(backend)
    calls = CALLS[backend]()
    with pytest.raises(ZeroDivisionError):
        side.observe(lambda: 1 / 0)
    first = side.observe(calls["plain"])
    calls["bfloat16"]()
    assert first.types == {"float64"}


def test_of_numpy_nothing_is_seen():
    called = []
    assert backends.load("numpy").observe(lambda: called.append(np.ones(2))) == (
        frozenset(),
        frozenset(),
    )
    assert called
