"""What the tests share: small data, one way to train, and the exact run to hold it against.

Both frameworks are loaded into this one process, by the tests that need them. So they are always
configured with one thread and deterministic kernels: TensorFlow fixes both at its first use.
"""

from __future__ import annotations

import os

from pipeline.pairs.pair import Side
from pipeline.pairs.registry import find_pair

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from hypothesis import settings

from pipeline import backends, data, optimizers, seeds
from pipeline.data.batches import Batches, Seen
from pipeline.record.trace import Trace

settings.register_profile("twingrad", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("twingrad")

CONF = Path(__file__).parent.parent / "conf"


@pytest.fixture(autouse=True)
def no_inherited_store():
    """Begin without the variable in which MLflow keeps the store that this process used last.

    What a later test runs would write there: its own store is the one it names.
    """
    os.environ.pop("MLFLOW_TRACKING_URI", None)


class Run(NamedTuple):
    """A training's arrays, and what was told while it ran."""

    arrays: dict[str, np.ndarray]
    reports: list[int]
    model: Any
    trace: Trace
    seen: Seen
    batches: Any


class Exact(NamedTuple):
    """The same training in extended precision, and how far a right one can be from it.

    `param` and `bound` have a column for w and one for b; row 0 is the start.
    """

    loss: np.ndarray
    loss_bound: np.ndarray
    param: np.ndarray
    bound: np.ndarray


def composed() -> dict[str, Any]:
    """The default options of every group, read from ``conf`` itself."""
    root = yaml.safe_load((CONF / "config.yaml").read_text())
    groups = dict(pair for entry in root.pop("defaults") if isinstance(entry, dict)
                  for pair in entry.items())  # fmt: skip
    chosen = {group: name for group, name in groups.items() if (CONF / group).is_dir() and name}
    values = {g: yaml.safe_load((CONF / g / f"{n}.yaml").read_text()) for g, n in chosen.items()}
    return {**{key: value for key, value in root.items() if key != "hydra"}, **values}


def line(n: int = 200, seed: int = 0) -> data.Dataset:
    """The article's data set."""
    settings = {"n": n, "n_test": 50, "m": 0.1, "b": 0.3, "noise": 0.15, "low": -10.0, "high": 10.0}
    return data.make("linear", settings=settings, stream=partial(seeds.stream, seed))


def model_settings(name: str) -> dict[str, Any]:
    """What the YAML of a model gives to its spec and to its twins."""
    values = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    return {key: value for key, value in values.items() if key not in {"name", "init"}}


def build(
    backend: str,
    model: str | Side,
    *,
    values: Mapping[str, np.ndarray] | None,
    inputs: tuple[int, ...] = (1,),
    outputs: int = 1,
    dtype: str = "float64",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Any, Any, Side]:
    """Configure a backend and build one side of a pair; return backend, model and twin.

    `model` is a pair's name, or a twin of the test's own, which then gets `settings` alone.
    """
    side = backends.load(backend)
    side.configure(threads=1, deterministic=True, device="cpu", dtype=dtype, seed=seed)
    named = isinstance(model, str)
    twin = find_pair(model).load_side(backend) if named else model
    built = side.build(
        twin,
        values=values,
        inputs=inputs,
        outputs=outputs,
        settings=(model_settings(model) if named else {}) | dict(settings or {}),
        device="cpu",
        dtype=dtype,
    )
    return side, built, twin


def update_of(optimizer: str, given: Mapping[str, Any] | None = None) -> optimizers.Update:
    """The optimizer of that name: its YAML, with some values given otherwise."""
    values = yaml.safe_load((CONF / "optimizer" / f"{optimizer}.yaml").read_text())
    values = {key: value for key, value in values.items() if key != "lr"} | dict(given or {})
    around = ("name", "decay", "weight_decay", "clip_norm", "accumulate")
    return optimizers.Update(
        settings={key: value for key, value in values.items() if key not in around},
        **{key: values[key] for key in around},
    )


def train(
    backend: str,
    model: str | Side,
    *,
    x: np.ndarray,
    y: np.ndarray,
    values: Mapping[str, np.ndarray],
    rates: np.ndarray,
    dtype: str = "float64",
    loop: str = "manual",
    loss: str = "mse",
    loss_settings: Mapping[str, Any] | None = None,
    optimizer: str = "gd",
    optimizer_settings: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    execution: str = "eager",
    xla: bool = False,
    full: bool = True,
    size: int | None = None,
    shuffle: bool = False,
    order: Callable[[np.ndarray], np.ndarray] | None = None,
    masks: Callable | None = None,
    log_every: int = 1000,
    report: Callable[[Trace], object] = lambda trace: None,
) -> Run:
    """Train one side of a pair from `values`, with one update a rate, as the stage does.

    `y` is encoded as the loss wants it. With `order`, the samples of each batch come in another
    order: what changes then is the order of sums alone.
    """
    side, built, twin = build(
        backend, model, values=values, inputs=x.shape[1:], outputs=y.shape[1], dtype=dtype,
        settings=settings,
    )  # fmt: skip
    first = side.read(built, twin)
    trace, reports = Trace(rates=rates, full=full), []
    update = update_of(optimizer, optimizer_settings)
    batches = Batches(
        x=x.astype(dtype),
        y=y.astype(dtype),
        size=size or len(x),
        shuffle=shuffle,
        stream=partial(seeds.stream, 0),
    )
    if order is not None:
        batches = Permuted(batches, order)
    updates = -(-batches.count // update.accumulate)
    seen = Seen(fixed=batches.fixed)

    def after(epoch: int, slots: Callable) -> bool:
        if epoch % log_every == 0:
            reports.append(epoch * updates)
            report(trace)
        return False

    try:
        side.train(
            built,
            twin,
            batches=batches,
            epochs=len(rates) // updates,
            loop=loop,
            loss=loss,
            loss_settings=loss_settings or {},
            update=update,
            execution=execution,
            xla=xla,
            masks=masks,
            trace=trace,
            seen=seen,
            after=after,
            resume=None,
        )
    except Exception as error:
        error.trace, error.first = trace, first
        raise
    return Run(trace.collect(first), reports, built, trace, seen, batches)


class Permuted:
    """Batches whose samples are the same, in another order within each batch."""

    def __init__(self, batches: Batches, order: Callable[[np.ndarray], np.ndarray]) -> None:
        self.size, self.count, self.fixed = batches.size, batches.count, False
        self.group = batches.group
        self._batches, self._order = batches, order

    def blocks(self, epoch: int):
        for x, y in self._batches.blocks(epoch):
            rows = np.arange(len(x))
            parts = [rows[i : i + self.size] for i in range(0, len(x), self.size)]
            within = np.concatenate([self._order(part) for part in parts])
            yield x[within], y[within]


def exact(
    *,
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
    rates: np.ndarray,
    dtype: str,
    loss: str = "mse",
    terms: float | None = None,
) -> Exact:
    """Gradient descent on ``x·w + b`` in extended precision, with a bound on rounding beside it.

    The loss is quadratic, so descent is the linear recursion θ' = θ − lr·(H·θ − c), with
    H = 2/n·XᵀX, c = 2/n·Xᵀy and X = [x 1]; for the absolute error θ' = θ − lr/n·Xᵀsign(Xθ − y).

    The bound, to first order, with u = eps/2 the unit roundoff of `dtype`. In one step from the
    same θ, every addend of a gradient passes 8 roundings at most (two in x·w + b, the difference,
    the factors 2 and 1/n, x, and two to spare) and `terms` in the sum; n for a sum in any order
    (Higham, "Accuracy and Stability", ch. 4). The addend's rounded parts are |x|·(|e| + |xw| + |b|).
    The update rounds lr·g and the new θ. What was there before is carried by I − lr·H, whose norm is
    ρ = max|1 − lr·λ(H)| (for the absolute error 1, as long as no sign flips), so
    Δ' ≤ ρ·Δ + |local error|.
    """
    x, y, rates, start = (np.asarray(a).astype(dtype).astype(np.longdouble)
                          for a in (x, y, rates, start))  # fmt: skip
    n, u = len(x), np.finfo(dtype).eps / 2
    c = ((n if terms is None else terms) + 8) * u
    X = np.hstack([x, np.ones_like(x)])
    eigenvalues = np.linalg.eigvalsh((2 * X.T @ X / n).astype(float))
    theta, delta = start.copy(), np.longdouble(0)
    losses, loss_bounds, thetas, bounds = [], [], [theta], [np.zeros(2)]
    for lr in rates:
        e = X @ theta - y[:, 0]
        size = np.abs(e) + np.abs(X) @ np.abs(theta)
        if loss == "mse":
            value, slack = np.mean(e**2), np.mean(2 * np.abs(e) * size)
            g, scale = 2 * X.T @ e / n, 2 * np.abs(X).T @ size / n
            rho = np.abs(1 - float(lr) * eigenvalues).max()
        else:
            assert np.abs(e).min() > 20 * (1 + np.abs(x).max()) * (delta + u), "a sign may flip"
            value, slack = np.mean(np.abs(e)), np.mean(size)
            g, scale, rho = X.T @ np.sign(e) / n, np.abs(X).mean(axis=0), 1.0
        losses.append(value)
        loss_bounds.append(c * slack + np.linalg.norm(g) * delta + eigenvalues.max() * delta**2)
        theta = theta - lr * g
        local = lr * c * scale + 2 * u * (np.abs(theta) + lr * np.abs(g))
        delta = rho * delta + np.linalg.norm(local)
        thetas.append(theta)
        bounds.append(np.full(2, delta))
    return Exact(*map(np.array, (losses, loss_bounds, thetas, bounds)))


def columns(arrays: Mapping[str, np.ndarray], kind: str = "param") -> np.ndarray:
    """The parameters of a model ``x·w + b`` as columns w and b, in extended precision."""
    rows = [arrays[f"{kind}/{name}"] for name in ("w", "b")]
    return np.stack([r.reshape(len(r)) for r in rows], axis=1).astype(np.longdouble)


class Tools(NamedTuple):
    """The functions above, as one fixture: test files do not import each other."""

    composed: Any = staticmethod(composed)
    line: Any = staticmethod(line)
    model_settings: Any = staticmethod(model_settings)
    build: Any = staticmethod(build)
    train: Any = staticmethod(train)
    update_of: Any = staticmethod(update_of)
    exact: Any = staticmethod(exact)
    columns: Any = staticmethod(columns)


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()
