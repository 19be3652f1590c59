from __future__ import annotations

import numpy as np
import pytest

from pipeline.data import Dataset
from pipeline.record.record import RunRecord

NOISE = 0.15


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 40), ("test", 60)):
        x = rng.uniform(-10, 10, (n, 1))
        arrays[f"x_{split}"] = x
        arrays[f"y_{split}"] = 0.1 * x + 0.3 + rng.normal(0, NOISE, (n, 1))
    facts = {"truth": {"w": 0.1, "b": 0.3}, "noise": NOISE}
    return Dataset(name="linear", arrays=arrays, facts=facts)


@pytest.fixture
def make(dataset):
    def record(backend="torch", *, loop="manual", loss="mse", lr=0.001, shape=(), steps=30):
        t = np.linspace(0, 1, steps + 1)
        w = (-0.05 + 0.15 * t).astype(np.float32).reshape(-1, *shape)
        b = (0.05 + 0.25 * t).astype(np.float32).reshape(len(t), *shape[1:])
        prediction = dataset.arrays["x_test"] * w[-1].item() + b[-1].item()
        about = {
            "config": {
                "model": {"name": "linear"},
                "loss": {"name": loss},
                "optimizer": {"name": "gd", "lr": lr},
                "train": {"loop": loop},
                "backend": {"name": backend},
            },
            "data": {"facts": dict(dataset.facts)},
            "least_squares": {"w": 0.1, "b": 0.3},
        }
        arrays = {
            "loss": np.geomspace(1, 0.02, steps).astype(np.float32),
            "param/w": w,
            "param/b": b,
            "last/w": w[-1],
            "last/b": b[-1],
            "prediction": prediction.astype(np.float32),
        }
        return RunRecord(about=about, arrays=arrays)

    return record
