"""Records and evidence made by hand: every number of a verdict can be set, and nothing is trained."""

from __future__ import annotations

import copy

import numpy as np

from pipeline.data.batches import fingerprints
from pipeline.parity import distance
from pipeline.parity.evidence import METHOD, Evidence, Suspect
from pipeline.parity.quantity import TEST, Quantity, recorded_updates
from pipeline.record.record import RunRecord

STEPS = 6
EPOCH = 3  # updates
OWN, APART = 1e-7, 1e-16  # of right sides, relative to the size of what is measured
EPS32, EPS64 = 2.0**-23, 2.0**-52
R, C = 30.0, 8.0  # of short sums
CONFIG = {
    "backend": {"name": "torch", "dtype": "float32"}, "model": {"name": "softmax", "init": "shared"},
    "train": {"loop": "manual", "epochs": STEPS // EPOCH, "patience": None, "monitor": None},
    "optimizer": {"accumulate": 1, "clip_norm": None, "lr": 0.1},
}  # fmt: skip
W, B = Quantity("parameter", "w"), Quantity("parameter", "b")
GRAD_W, GRAD_B = Quantity("gradient", "w"), Quantity("gradient", "b")
SLOT_W, SLOT_B = Quantity("slot", "v/w"), Quantity("slot", "v/b")
LOSS, RATE = Quantity("loss", "loss"), Quantity("rate", "lr")
HIDDEN, OUTPUT = Quantity("activation", "hidden"), Quantity("activation", "output")
PREFIX = {"gradient": "grad", "slot": "slot", "parameter": "param", "activation": "layer"}


def record(backend="torch", seed=0, dtype=np.float32):
    """One run of `STEPS` updates of two parameters; of one seed every run has the same bits."""
    rng = np.random.default_rng(seed)
    rows = {"w": rng.normal(size=(STEPS + 1, 3, 2)), "b": rng.normal(size=(STEPS + 1, 2))}
    rows = {name: values.astype(dtype) for name, values in rows.items()}
    arrays = {
        "loss": rng.uniform(1, 2, STEPS).astype(dtype), "lr": np.full(STEPS, 0.1),
        "grad_norm": np.ones(STEPS), "prediction": rng.normal(size=(5, 2)).astype(dtype),
        "order/samples": np.arange(STEPS, dtype=np.uint64),
        "order/sequence": np.arange(STEPS, dtype=np.uint64) + np.uint64(9),
        "layer/hidden": rng.normal(size=(4, 3)).astype(dtype),
        "layer/output": rng.normal(size=(4, 2)).astype(dtype),
    }  # fmt: skip
    for name, values in rows.items():
        arrays |= {f"param/{name}": values, f"first/{name}": values[0], f"last/{name}": values[-1],
                   f"grad/{name}": values[1:] * 2, f"slot/v/{name}": values[1:] * 3}  # fmt: skip
    config = copy.deepcopy(CONFIG)
    config["backend"] |= {"name": backend, "dtype": np.dtype(dtype).name}
    about = {"config": config, "status": "FINISHED", "scores": {"mse": 0.5},
             "data": {"digest": "d", "name": "wine", "facts": {}}, "updates_per_epoch": EPOCH}  # fmt: skip
    return RunRecord(about=about, arrays=arrays)


def pair(dtype=np.float32):
    """Two runs with the same bits."""
    return record(dtype=dtype), record("tensorflow", dtype=dtype)


def other_bits(dtype=np.float32, seed=1):
    """Two runs that start alike and round otherwise ever after, by an ulp or two."""
    a, b = pair(dtype)
    rng = np.random.default_rng(seed)
    for key, values in b.arrays.items():
        if values.dtype == dtype and key not in ("lr", "grad_norm") and "first/" not in key:
            factors = 1 + np.finfo(dtype).eps * rng.choice([-1, 1], size=values.shape)
            moved = (values * factors).astype(dtype)
            if key.startswith("param/"):
                moved[0] = values[0]
            b.arrays[key] = moved
    for name in "wb":
        b.arrays[f"last/{name}"] = b.arrays[f"param/{name}"][-1]
    return a, b


def changed(side, key, index, by):
    """Add to one number of a record; the parameters' ends are copies of rows and follow."""
    side.arrays[key] = side.arrays[key].copy()
    side.arrays[key][index] += by
    if key.startswith("param/"):
        name, rows = key.removeprefix("param/"), side.arrays[key]
        side.arrays |= {f"first/{name}": rows[0], f"last/{name}": rows[-1]}


def renamed(side, old, new):
    """Give a tensor another name everywhere in a record."""
    for key in list(side.arrays):
        if key.endswith(f"/{old}"):
            side.arrays[key.removesuffix(old) + new] = side.arrays.pop(key)


def with_batches(side, sizes, *, epochs=STEPS // EPOCH, group=1, change=None):
    """Record the order as a loop does that cuts each epoch into batches of `sizes`.

    `change` is given samples and targets of all epochs, and may change some.
    """
    pool = np.random.default_rng(5).normal(size=(epochs, 64, 4)).astype(np.float32)
    rows = pool[:, : sum(sizes)].reshape(-1, 4)  # an epoch begins alike, however it is cut
    x, y = rows[:, :3].copy(), rows[:, 3:].copy()
    if change is not None:
        change(x, y)
    prints = fingerprints(x, y, lengths=list(sizes) * epochs)
    updates = -(-len(sizes) // group)
    epoch = np.repeat(np.arange(1, epochs + 1), len(sizes))
    step = np.tile(np.arange(len(sizes)) // group + 1, epochs) + (epoch - 1) * updates
    prints |= {"step": step.astype(np.uint32), "epoch": epoch.astype(np.uint32)}
    side.arrays = {k: v for k, v in side.arrays.items() if not k.startswith("order/")}
    side.arrays |= {f"order/{name}": values for name, values in prints.items()}


def shortened(side, steps):
    """End a run after some steps."""
    stepwise = ("loss", "lr", "grad_norm", "grad", "slot", "order", "scalar")
    for key, rows in side.arrays.items():
        if key.split("/")[0] in stepwise:
            side.arrays[key] = rows[:steps]
        if key.startswith("param/"):
            side.arrays[key] = rows[: steps + 1]
            side.arrays[f"last/{key.removeprefix('param/')}"] = rows[steps]


def with_curve(side, curve, *, best=None, patience=None):
    """Record a validation curve with a score at each epoch's end, and which epoch was best."""
    steps = np.arange(1, len(curve) + 1) * EPOCH
    side.about["config"]["train"] |= {"patience": patience, "monitor": "mse"}
    side.arrays |= {"val/step": steps, "val/mse": np.array(curve, float)}
    step = int(steps[int(np.argmin(curve))]) if best is None else best
    side.about["best"] = {"step": step, "score": "mse"}
    for name in "wb":
        side.arrays[f"best/{name}"] = side.arrays[f"param/{name}"][step]


def drop(side, *kinds):
    """Take arrays out of a record by what stands before their first slash."""
    side.arrays = {k: v for k, v in side.arrays.items() if k.split("/")[0] not in kinds}


def measured(size, *, own_a=OWN, own_b=OWN, apart=APART):
    """The norms of rows of some size; errors and distance relative to it."""
    n = len(size)
    return {
        "own_a": own_a * size, "own_b": own_b * size, "apart": apart * size, "size": size.copy(),
        "free": own_a * size, "lonely": np.zeros(n, bool), "diverged": np.zeros(n, bool),
    }  # fmt: skip


def recorded_sizes(a):
    """What a record has of every quantity, with its sizes in both norms."""
    sizes = {}
    for quantity, rows in recorded_updates(a).items():
        if quantity.kind == "rate":
            continue
        values = rows.astype(np.float64)
        if quantity.kind == "parameter":
            whole = a.arrays[f"param/{quantity.name}"].astype(np.float64)
            sizes[quantity] = distance.norms(whole[1:] - whole[:-1]) + distance.norms(whole[:-1])
        else:
            sizes[quantity] = distance.norms(values)
    for name, values in a.named("layer").items():
        sizes[Quantity("activation", name)] = distance.norms(values[None])
    if "prediction" in a.arrays:
        sizes[TEST] = distance.norms(a.arrays["prediction"][None])
    return sizes


def evidence(a, b, *, n=1, **relative):
    """What a probe would have measured of two sides that are right."""
    found = Evidence(
        RunRecord(
            about={
                "method": METHOD, "asked": {"prove": False, "gradcheck": False},
                "terms": {"step": n, "sample": n}, "opinions": [], "replay": {}, "types": {},
            }
        )
    )  # fmt: skip
    for source, side in (("a", a), ("b", b)):
        for quantity, size in recorded_sizes(side).items():
            found.put(quantity, source, measured(size, **relative))
            found.arrays[f"replay/{source}/{quantity.key}"] = np.zeros_like(size)
    return found


def put(found, part, quantity, step, times, *, sources="ab", norm=slice(None)):
    """Set one row of a part of the evidence, in multiples of the row's size."""
    for source in sources:
        size = found.arrays[f"size/{source}/{quantity.key}"]
        row = 0 if quantity.kind in ("activation", "prediction") else step - 1
        found.arrays[f"{part}/{source}/{quantity.key}"][row, norm] = times * size[row, norm]


def give_opinion(
    found, quantity, step, *, test="meaning", side="", excused=True, alone=True, nearest=0.5,
    sources="ab",
):  # fmt: skip
    """Add a second opinion on a suspect."""
    for source in sources:
        suspect = Suspect(test, side, source, quantity, step)
        found.about["opinions"] = [*found.about["opinions"], {
            "suspect": suspect.to_list(), "excused": excused, "nearest": nearest, "alone": alone,
        }]  # fmt: skip


def explain_replay(found, side, quantity, step, kind, text="why"):
    """Say why a record does not come out of its own states again."""
    row = 0 if quantity.kind in ("activation", "prediction") else step - 1
    found.arrays[f"replay/{side}/{quantity.key}"][row] = 1.0
    found.about["replay"] |= {side: {
        "quantity": list(quantity), "step": step, "ratio": 1e6, "distance": 1.0, "bound": 1e-6,
        "kind": kind, "text": text,
    }}  # fmt: skip


def swapped(found):
    """The evidence of the pair with its sides the other way round."""
    other = {"a": "b", "b": "a"}
    arrays = {}
    for key, values in found.arrays.items():
        part, source, rest = key.split("/", 2)
        part = {"own_a": "own_b", "own_b": "own_a"}.get(part, part)
        if part == "vector":  # vector/<name>/<source>/<step>/<key>
            name, from_side, rest = source, *rest.split("/", 1)
            name = name if name == "start" else other[name[0]] + name[1:]
            arrays[f"vector/{name}/{other[from_side]}/{rest}"] = values.copy()
        else:
            arrays[f"{part}/{other[source]}/{rest}"] = values.copy()
    about = copy.deepcopy(found.about)
    for name in ("replay", "types"):
        about[name] = {other[side]: value for side, value in about[name].items()}
    for opinion in about["opinions"]:
        test, side, source, *rest = opinion["suspect"]
        opinion["suspect"] = [test, other.get(side, ""), other[source], *rest]
    return Evidence(RunRecord(about=about, arrays=arrays))
