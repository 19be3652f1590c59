"""Three hundred right pairs, over everything that the project has, and what no alarm among them says."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np


class Right(NamedTuple):
    """A pair that agrees: overrides of both sides, those of one, and another start of both."""

    overrides: tuple[str, ...]
    of: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - never written to
    first: str = ""

    def name(self) -> str:
        kept = (o.removeprefix("train.").removeprefix("optimizer.") for o in self.overrides)
        return ",".join([*kept, *([self.first] if self.first else [])])

    def is_long(self) -> bool:
        return any(
            o.startswith("train.epochs=1500") or o == "data.n=1000000" for o in self.overrides
        )


def upper_rate(alarms: int, pairs: int, *, confidence: float = 0.95) -> float:
    """Return the upper bound of the false alarm rate (C. Clopper and E. Pearson, 1934; one-sided).

    Without an alarm it is ``1 − (1 − confidence)^(1/pairs)``, about 3/pairs.
    """
    from scipy import stats

    if alarms >= pairs:
        return 1.0
    return float(stats.beta.ppf(confidence, alarms + 1, pairs - alarms))


STARTS = {
    "zeros": lambda values: {k: np.zeros_like(v) for k, v in values.items()},
    "moved biases": lambda values: {
        k: v + 0.3 * np.cos(np.arange(v.size, dtype=float)).reshape(v.shape)
        if k.endswith(".b")
        else v
        for k, v in values.items()
    },
}

FULL = ("train=full_batch", "train.epochs=5")
MINI = ("train=minibatch", "train.batch=16", "train.epochs=2", "train.evaluate_every=null")
PLANE = ("data=multilinear", "data.n=60", "data.n_val=20", "data.n_test=50")
MOONS = ("data=moons", "data.n=60", "data.n_val=20", "data.n_test=50")
DIGITS = ("data=digits", "data.test=0.84", "loss=cross_entropy")  # 108 samples are left
MLP = ("model=mlp", "model.widths=[10,10]")
MODELS = {
    "linear": (*FULL, "data=linear", "data.n=40", "model=linear"),
    "dense": (*MINI, *PLANE, "model=dense"),
    "polynomial": (*FULL, "data=polynomial", "data.n=60", "model=polynomial"),
    "softmax": (*MINI, "data=wine", "model=softmax", "loss=cross_entropy"),
    "mlp": (*MINI, *DIGITS, *MLP),
    "dynamic": (*FULL, *MOONS, "model=dynamic", "model.width=4", "model.most=4", "loss=bce"),
    "cnn": (*MINI, *DIGITS, "data.layout=image", "model=cnn", "model.channels=[3]"),
    "rnn": (*MINI, *DIGITS, "data.layout=rows", "model=rnn", "model.width=6"),
    "attention": (*MINI, *DIGITS, "data.layout=rows", "model=attention", "model.width=8",
                  "model.heads=2", "model.hidden=8"),
}  # fmt: skip
RULES = ("gd", "momentum", "nesterov", "rmsprop", "adagrad", "adadelta", "adam", "adamw")
TYPES = ("float32", "float64")
LOSSES = {
    "mse": PLANE, "mae": PLANE, "huber": PLANE, "bce": MOONS,
    "cross_entropy": (*MOONS, "loss.smoothing=0.1"),
}  # fmt: skip


def _rules() -> list[Right]:
    return [
        Right((*MODELS[model], f"optimizer={rule}", f"backend.dtype={TYPES[(i + j) % 2]}", f"seed={i}"))
        for i, model in enumerate(MODELS) for j, rule in enumerate(RULES)
    ]  # fmt: skip


def _layers() -> list[Right]:
    found = []
    for i, (norm, act, drop) in enumerate(
        product(("none", "batch", "layer"), ("relu", "tanh", "gelu", "sigmoid"), (0.0, 0.3))
    ):
        found.append(Right((*MODELS["mlp"], f"model.norm={norm}", f"model.activation={act}",
                            f"model.dropout={drop}", f"optimizer={RULES[i % 8]}",
                            f"backend.dtype={TYPES[i // 2 % 2]}")))  # fmt: skip
    return found


def _losses() -> list[Right]:
    return [
        Right((*data, f"loss={loss}", *MLP, "train=minibatch", "train.evaluate_every=null",
               f"train.batch={batch}", "train.epochs=1", f"data.n={12 if batch < 8 else 128}",
               f"optimizer={RULES[i % 8]}", f"backend.dtype={dtype}", "model.activation=tanh"))
        for i, ((loss, data), batch, dtype) in enumerate(
            product(LOSSES.items(), (1, 2, 7, 64, 128), TYPES))
    ]  # fmt: skip


def _rates() -> list[Right]:
    saturated = (*FULL, *MOONS, "model=softmax", "loss=bce")
    found = []
    for rate in ("1e-8", "1e-7", "1e-6", "1e-4", "1e-2", "1", "5", "20"):
        found += [
            Right((*MODELS["softmax"], "optimizer=gd", f"optimizer.lr={rate}")),
            Right((*MODELS["softmax"], "optimizer=momentum", f"optimizer.lr={rate}")),
            Right((*saturated, "train.epochs=40", "optimizer=gd", f"optimizer.lr={rate}")),
            Right((*MODELS["mlp"], "optimizer=adam", f"optimizer.lr={rate}"), first="moved biases"),
        ]
    return found


def _native() -> list[Right]:
    rules = (("gd",), ("momentum",), ("nesterov",), ("adadelta",),
             ("gd", "optimizer.decay=l2", "optimizer.weight_decay=0.01"),
             ("gd", "optimizer.decay=decoupled", "optimizer.weight_decay=0.01"))  # fmt: skip
    losses = ("mse", "huber", "bce", "cross_entropy")
    return [
        Right((*MINI, *LOSSES[loss], f"loss={loss}", *MLP, "train.loop=native", f"optimizer={name}",
               *more, f"backend.dtype={dtype}"))
        for (name, *more), loss, dtype in product(rules, losses, TYPES)
    ]  # fmt: skip


def _loops() -> list[Right]:
    mlp, soft = MODELS["mlp"], MODELS["softmax"]
    compiled = "backend.execution=compiled"
    stops = ("train.evaluate_every=1", "train.patience=2", "train.weights=best", "train.epochs=12")
    found = [Right((*MODELS[m], "optimizer=adam"), {"tensorflow": (compiled,)})
             for m in ("mlp", "cnn", "rnn", "attention", "softmax")]  # fmt: skip
    found += [
        Right((*mlp, "optimizer=adam", compiled)),
        Right((*soft, "optimizer=momentum", compiled)),
    ]
    found += [Right((*mlp, "optimizer=adam", f"optimizer.accumulate={n}", f"backend.dtype={t}"))
              for n, t in product((2, 3), TYPES)]  # fmt: skip
    found += [Right((*mlp, f"optimizer={r}", f"optimizer.clip_norm={c}"))
              for r, c in product(("gd", "adam"), ("1e-6", "0.01", "0.5", "100"))]  # fmt: skip
    found += [Right((*mlp, f"optimizer={r}", f"schedule={s}"))
              for r, s in product(("momentum", "adam"), ("step", "cosine", "exponential", "warmup_cosine"))]  # fmt: skip
    found += [Right((*mlp, f"optimizer={r}", "optimizer.decay=l2", "optimizer.weight_decay=0.1"))
              for r in ("momentum", "adam", "rmsprop")]  # fmt: skip
    found += [Right((*mlp, *stops, f"optimizer={r}", f"optimizer.lr={lr}", f"backend.dtype={t}"))
              for (r, lr), t in product((("adam", 0.1), ("adam", 1e-3), ("gd", 2.0)), TYPES)]  # fmt: skip
    found += [Right((*mlp, *stops, "model.norm=batch", "train.monitor=accuracy", f"optimizer={r}"))
              for r in ("adam", "gd")]  # fmt: skip
    return found


def _edges() -> list[Right]:
    long = ("train=full_batch", "train.epochs=2", "model=dense")
    found = [Right((*PLANE, *long, "data.n=100000", f"optimizer={r}", f"backend.dtype={t}"))
             for r, t in product(("gd", "adam"), TYPES)]  # fmt: skip
    found += [Right(("data=linear", "data.n=1000000", "model=linear", *FULL, "train.epochs=2",
                     "optimizer=gd", f"backend.dtype={t}")) for t in TYPES]  # fmt: skip
    found += [Right((*MODELS["linear"], "optimizer=gd", "optimizer.lr=1.0", "train.epochs=60", f"backend.dtype={t}"))
              for t in TYPES]  # fmt: skip
    found += [Right((*MINI, *PLANE, *MLP, f"optimizer={r}", "optimizer.lr=1e4", "train.epochs=6",
                     f"backend.dtype={t}")) for r, t in product(("gd", "momentum"), TYPES)]  # fmt: skip
    found += [Right((*MODELS["cnn"], "train=full_batch", "train.epochs=6", "optimizer=momentum",
                     f"backend.dtype={t}", f"model.pool={p}"))
              for t, p in product(TYPES, ("max", "average"))]  # fmt: skip
    found += [Right((*MOONS, "data.n=12", "loss=cross_entropy", *MLP, "model.norm=batch", "train=minibatch",
                     "train.batch=2", "train.epochs=2", "train.evaluate_every=null", f"seed={s}",
                     "optimizer=adam", f"backend.dtype={t}"))
              for s, t in product(range(6), TYPES)]  # fmt: skip
    found += [Right((*MODELS[m], "optimizer=adam", f"backend.dtype={t}"), first="zeros")
              for m, t in product(("mlp", "softmax", "dense"), TYPES)]  # fmt: skip
    found += [Right((*MODELS["mlp"], "model.widths=[8,8,8,8,8,8,8,8]", f"model.norm={n}", "optimizer=adam",
                     f"backend.dtype={t}")) for n, t in product(("none", "layer", "batch"), TYPES)]  # fmt: skip
    return found


def _many_steps() -> list[Right]:
    long, fast = (
        ("train=full_batch", "train.epochs=1500"),
        {"tensorflow": ("backend.execution=compiled",)},
    )
    return [
        Right((*MODELS["linear"], *long, "optimizer=gd")),
        Right((*MODELS["polynomial"], *long, "optimizer=adam"), fast),
        Right((*MODELS["dense"], *long, "optimizer=momentum", "backend.dtype=float64"), fast),
        Right((*MODELS["softmax"], *long, "optimizer=gd", "optimizer.lr=5"), fast),
        Right((*MOONS, "model=softmax", "loss=bce", *long, "optimizer=gd", "optimizer.lr=20"), fast),
        Right((*MOONS, *MLP, "loss=cross_entropy", *long, "optimizer=adam", "optimizer.lr=2e-2"), fast),
        Right((*PLANE, *MLP, "model.norm=batch", *long, "optimizer=rmsprop", "backend.dtype=float64"), fast),
        Right((*PLANE, *MLP, *long, "optimizer=adadelta", "optimizer.lr=1e-7"), fast),
    ]  # fmt: skip


PAIRS = [
    *_rules(),
    *_layers(),
    *_losses(),
    *_rates(),
    *_native(),
    *_loops(),
    *_edges(),
    *_many_steps(),
]
