"""When the validation set is scored, when that ends training, and which weights are kept."""

from __future__ import annotations

import numpy as np
import pairs
import pytest
from tiers import tiered

from pipeline import backends
from pipeline.config.types import ConfigError
from pipeline.jobs.check import check_config

# The rate grows from epoch to epoch, so that descent comes down first and goes astray later.
ASTRAY = ("data=multilinear", "data.n=40", "data.n_val=20", "data.n_test=10", "data.d=3",
          "model=dense", "train=minibatch", "train.batch=10", "train.shuffle=false",
          "train.epochs=40", "optimizer.lr=0.02", "schedule=step", "schedule.every=4",
          "schedule.factor=1.12", "backend.dtype=float64")  # fmt: skip
LOOPS = [(b, loop) for b in backends.names() for loop in backends.traits(b)["LOOPS"]]


def recorded(backend, loop, **stage):
    return pairs.recorded(*ASTRAY, f"backend={backend}", f"train.loop={loop}", **stage)


@pytest.mark.parametrize(("backend", "loop"), tiered(LOOPS, short=lambda _, case: "manual" in case))
def test_training_stops_where_waiting_was_in_vain_and_keeps_the_best_weights(backend, loop):
    whole = recorded(backend, loop, evaluate_every=2)
    mse, steps = whole.arrays["val/mse"], whole.arrays["val/step"]
    np.testing.assert_array_equal(steps, 8 * np.arange(1, 21))  # 4 updates an epoch
    best = int(np.argmin(mse))
    assert 0 < best < 16
    assert np.all(np.diff(mse[: best + 1]) < 0)
    assert np.all(mse[best + 1 :] > mse[best])

    stopped = recorded(backend, loop, evaluate_every=2, patience=3)
    assert stopped.steps == steps[best + 3]
    np.testing.assert_array_equal(stopped.arrays["val/mse"], mse[: best + 4])
    for run in (whole, stopped):
        assert run.about["best"]["step"] == steps[best]
        assert (run.about["best"]["score"], run.about["best"]["mse"]) == ("mse", mse[best])
        for kind, step in (("first", 0), ("best", steps[best]), ("last", run.steps)):
            for name, values in run.named("param").items():
                np.testing.assert_array_equal(run.arrays[f"{kind}/{name}"], values[step])


def test_a_score_that_is_better_when_higher_is_waited_for_the_other_way():
    by_mse, by_r2 = (recorded("numpy", "manual", evaluate_every=1, patience=2, monitor=monitor)
                     for monitor in ("mse", "r2"))  # fmt: skip
    assert by_mse.steps == by_r2.steps < 160
    assert by_mse.about["best"] == by_r2.about["best"] | {"score": "mse"}


def test_a_score_that_is_no_number_is_never_the_best_of_several(monkeypatch):
    """R² of a constant target is NaN; a first NaN must not be what nothing is better than."""
    from pipeline.stages import train

    given = iter([np.nan, 2.0, np.nan, 3.0, np.nan])
    monkeypatch.setattr(train, "scores", lambda *_, **__: {"mse": next(given)})
    run = recorded("numpy", "manual", evaluate_every=8)
    assert run.about["best"] == {"step": 64, "score": "mse", "mse": 2.0}


def test_a_first_score_that_never_comes_is_refused():
    """Else there would be no best weights at the end, and nothing for `patience` to wait for."""
    values = pairs.composed((*ASTRAY, "train.evaluate_every=41", "train.weights=best"))
    with pytest.raises(ConfigError, match=r"^train\.evaluate_every=41: .*train\.epochs=40"):
        check_config(values)
