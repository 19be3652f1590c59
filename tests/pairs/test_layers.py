"""The cells and blocks that are written out here are the frameworks' own layers."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import seeds
from pipeline.pairs.registry import find_pair

WIDTH, TIMES, FEATURES = 5, 6, 4


def case(cell):
    """Values of a cell with no bias at zero, and samples."""
    rng = np.random.default_rng(7)
    shape = {"inputs": (TIMES, FEATURES), "outputs": 3, "cell": cell, "width": WIDTH}
    values = find_pair("rnn").spec.first_values(seeds.stream(1, "init"), **shape)
    values = {name: value + 0.3 * rng.normal(size=value.shape) for name, value in values.items()}
    return values, rng.normal(size=(7, TIMES, FEATURES))


def blocks(array, order):
    """The gates of a stacked array in another order."""
    parts = np.split(array, len(order), axis=-1)
    return np.concatenate([parts[k] for k in order], axis=-1)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_cell_is_pytorchs_layer(tools, cell):
    """PyTorch orders a GRU's gates r, z, n, and has two biases: all in the first, but n's inner."""
    import torch

    values, x = case(cell)
    side, model, _ = tools.build("torch", "rnn", values=values, inputs=x.shape[1:], outputs=3,
                                 settings={"cell": cell, "width": WIDTH})  # fmt: skip
    order = (1, 0, 2) if cell == "gru" else (0, 1, 2, 3)
    layer = getattr(torch.nn, cell.upper())(FEATURES, WIDTH, batch_first=True)
    second = np.zeros(len(order) * WIDTH)
    if cell == "gru":
        second[2 * WIDTH :] = values["inner"]
    with torch.no_grad():
        for name, value in (
            ("weight_ih_l0", blocks(values["kernel"], order).T),
            ("weight_hh_l0", blocks(values["recurrent"], order).T),
            ("bias_ih_l0", blocks(values["bias"], order)),
            ("bias_hh_l0", second),
        ):
            getattr(layer, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
        last = layer(torch.from_numpy(x))[0][:, -1].numpy()
    expected = last @ values["out.w"] + values["out.b"]
    np.testing.assert_allclose(side.predict(model, x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_cell_is_kerass_layer(tools, cell):
    import keras

    values, x = case(cell)
    side, model, _ = tools.build("tensorflow", "rnn", values=values, inputs=x.shape[1:], outputs=3,
                                 settings={"cell": cell, "width": WIDTH})  # fmt: skip
    more = {"reset_after": True} if cell == "gru" else {}
    layer = getattr(keras.layers, cell.upper())(WIDTH, **more)
    layer.build((None, TIMES, FEATURES))
    bias = values["bias"]
    if cell == "gru":
        inner = np.concatenate([np.zeros(2 * WIDTH), values["inner"]])
        bias = np.stack([bias, inner])
    layer.set_weights([values["kernel"], values["recurrent"], bias])
    expected = np.asarray(layer(x)) @ values["out.w"] + values["out.b"]
    np.testing.assert_allclose(side.predict(model, x), expected, rtol=0, atol=1e-13)


def test_attention_is_pytorchs_layer(tools):
    import torch

    rng = np.random.default_rng(7)
    shape = {"inputs": (TIMES, FEATURES), "outputs": 3}
    settings = {"width": 6, "heads": 2, "hidden": 8, "norm_epsilon": 1e-5}
    values = find_pair("attention").spec.first_values(seeds.stream(1, "init"), **shape, **settings)
    values = {name: value + 0.3 * rng.normal(size=value.shape) for name, value in values.items()}
    _, model, _ = tools.build("torch", "attention", values=values, settings=settings, **shape)
    layer = torch.nn.MultiheadAttention(6, 2, bias=True, batch_first=True)
    fused = np.concatenate([values[f"{part}.w"].T for part in ("query", "key", "value")])
    bias = np.concatenate([values["query.b"], np.zeros(6), values["value.b"]])
    x = torch.from_numpy(rng.normal(size=(5, TIMES, 6)))
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.from_numpy(fused))
        layer.in_proj_bias.copy_(torch.from_numpy(bias))
        layer.out_proj.weight.copy_(torch.from_numpy(values["mix.w"].T.copy()))
        layer.out_proj.bias.copy_(torch.from_numpy(values["mix.b"]))
        expected = layer(x, x, x)[0]
        found = model.attend(x)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_an_even_kernels_extra_pixel_is_at_the_end_in_both(tools, kernel, padding):
    """Trap 13; the images have no symmetry that could hide a shift."""
    rng = np.random.default_rng(7)
    shape = {"inputs": (9, 8, 2), "outputs": 3}
    settings = tools.model_settings("cnn") | {"channels": [4], "kernel": kernel, "padding": padding}
    values = find_pair("cnn").spec.first_values(seeds.stream(1, "init"), **shape, **settings)
    x = rng.normal(size=(5, 9, 8, 2))
    found = []
    for backend in ("torch", "tensorflow"):
        side, model, _ = tools.build(backend, "cnn", values=values, settings=settings, **shape)
        found.append(side.predict(model, x))
    assert np.linalg.norm(found[0] - found[1]) <= 1e-13 * np.linalg.norm(found[0])
