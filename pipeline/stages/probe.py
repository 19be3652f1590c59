"""The stage ``probe``: trains a pair again in ways that show what rounding does, and keeps that.

What it makes is one record beside the two, the evidence of `pipeline.parity.ladder.Evidence`:

- *permuted*: each side again with the samples of every batch in other orders. Only the order of
  sums changes, so the distance to the side's own run is what rounding does: its noise floor.
- *forced*: b again, each update from a's recorded state. A wrong operation shows at every step, and
  accumulated drift at none.
- *exact*: both sides in float64, each update from a's recorded state. A difference of meaning
  stays, rounding shrinks by nine orders. With it, each side's own |float32 − float64|.
- *reference*: a run in higher precision, to tell which side is nearer the exact path.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pipeline import backends, config, data, models, seeds, storage
from pipeline.backends.base import Forced
from pipeline.config import Config, ConfigError
from pipeline.data.batches import AnyBatches
from pipeline.models import Twin
from pipeline.parity import distance
from pipeline.parity.ladder import MULTIPLE, Evidence, judge, steps_of
from pipeline.record import RunRecord, Trace
from pipeline.stages.check import check, made, outputs_of
from pipeline.stages.run import how, layers_of, rates_of, samples_of

Arrays = dict[str, np.ndarray]
EVIDENCE = Path("outputs/evidence")
_BLOCK = 1 << 16  # numbers in extended precision that are looked at together
_MOST_FLIPS = 5  # located; every other is told without its place


def probe(
    a: RunRecord,
    b: RunRecord,
    *,
    permutations: int = 3,
    forced: bool = True,
    prove: bool = False,
    gradcheck: bool = False,
    twins: Mapping[str, Twin] | None = None,
    scratch: Path | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> RunRecord:
    """Measure what the bounds of a pair need.

    Parameters
    ----------
    permutations
        Orders of each batch's samples that the noise floor is the largest of.
    forced
        Whether b is trained from a's states, and both in float64.
    prove
        Whether both are also trained freely in float64, to compare the two distances.
    gradcheck
        Whether gradients are held against central differences.
    twins
        Other twins than the project's, by ``a`` and ``b``.
    scratch
        Where steps go that are too many for memory; None holds all of them.
    say
        Called with what is done next.

    Raises
    ------
    ConfigError
        If a record holds too little to be probed.
    """
    begun = perf_counter()
    for record in (a, b):
        if not record.named("param"):
            raise ConfigError("record.trace", record.about.get("trace", {}).get("kept", "?"),
                              "a probe needs every step: run with record.trace=full")  # fmt: skip
    sides = {
        name: _Side(record, (twins or {}).get(name), scratch)
        for name, record in (("a", a), ("b", b))
    }
    dataset = sides["a"].dataset
    arrays: Arrays = {}
    about: dict[str, Any] = {"pair": [digest(a), digest(b)], "config": a.about["config"]}

    for name, side in sides.items():
        for number in range(1, permutations + 1):
            say(f"{side.record.label()}, samples of each batch in another order, {number} of "
                f"{permutations}")  # fmt: skip
            other = side.train(permutation=number)
            for key, rows in steps_of(other).items():
                own = steps_of(side.record)[key][: len(rows)]
                floor = distance.rows(own, rows).apart
                key = f"floor/{name}/{key}"
                arrays[key] = np.maximum(arrays[key], floor) if key in arrays else floor
    if forced:
        say("each step from the same state, in both precisions")
        arrays |= _forced(sides)
    arrays |= _layers(sides)
    if "prediction" in a.arrays and "prediction" in b.arrays:
        arrays |= _predictions(sides)
    if prove:
        say("both in float64")
        found = {name: side.train(dtype="float64") for name, side in sides.items()}
        about["prove"] = _proved((a, b), (found["a"], found["b"]))
    say("the reference in higher precision")
    reference, errors = _reference(sides)
    about["reference"], arrays = reference, arrays | errors
    if gradcheck:
        about["gradcheck"] = {name: side.gradcheck() for name, side in sides.items()}
    evidence = RunRecord(about=about, arrays=arrays)
    say("each as it was recorded, step by step")
    about["stale"] = _stale(sides, Evidence(evidence))
    flips = judge(a, b, evidence=Evidence(evidence)).flips[:_MOST_FLIPS]
    about["flips"] = [{"step": k} | _flipped(sides, k) for k in flips]
    about["probe"] = {
        "permutations": permutations, "forced": forced, "seconds": perf_counter() - begun,
        "rows": dataset.rows,
    }  # fmt: skip
    return evidence


def evidence_of(a: RunRecord, b: RunRecord) -> Evidence | None:
    """Return what an earlier probe of this pair left whole, if there is any."""
    with contextlib.suppress(ValueError):  # not there, cut short or altered
        return Evidence(RunRecord.load(place(a, b)))
    return None


def probed(a: RunRecord, b: RunRecord, **how: Any) -> Evidence:
    """Probe a pair and keep what was measured."""
    found = probe(a, b, scratch=EVIDENCE, **how)
    found.save(place(a, b))
    return Evidence(found)


def place(a: RunRecord, b: RunRecord) -> Path:
    """Return where the evidence of a pair is kept."""
    return EVIDENCE / f"{digest(a)[:16]}-{digest(b)[:16]}"


def digest(record: RunRecord) -> str:
    """Return what tells one run's numbers from another's: its config and its arrays."""
    return storage.array_digest(
        {k: v for k, v in record.arrays.items() if k != "seconds" and v.nbytes <= 1 << 20}
        | {"config": np.frombuffer(config.digest(record.config).encode(), np.uint8)}
    )


def _stale(sides: Mapping[str, _Side], evidence: Evidence) -> str:
    """Say where a run does not come out again as it was recorded; nothing if both do.

    Then what was measured is the rounding of another program than the one that made the record.
    Each step starts from the run's own recorded state, and has to give the same bits or what
    rounding explains (on several threads, say). Not by the larger floor: a run's distance from a
    record that was not its own would be its own excuse.
    """
    for side in sides.values():
        again: Arrays = {}
        if side.record.named("layer"):
            again |= side.layers(side.settings.backend.dtype)
        if "prediction" in side.record.arrays:
            again["prediction"] = side.predict(side.scored(), side.settings.backend.dtype)
        again = {key: value[None] for key, value in again.items()}
        own = {key: side.record.arrays[key][None] for key in again if key in side.record.arrays}
        again |= steps_of(side.train(forced=states(side.record)))
        own |= steps_of(side.record)
        for key, rows in own.items():
            rounds = evidence.rounding(key) if len(rows) == 1 else evidence.floor(key, np.minimum)
            n = len(rows) if rounds is None else min(len(rows), len(rounds))
            gap = distance.rows(rows[:n], again[key][:n])
            least = np.finfo(rows.dtype).eps * gap.size
            bound = MULTIPLE * (least if rounds is None else np.maximum(rounds[:n], least))
            beyond = gap.lonely | (gap.apart > bound)
            if beyond.any():
                step = f" at step {int(np.argmax(beyond)) + 1}" if n > 1 else ""
                return (
                    f"{side.record.label()} does not come out again as it was recorded ({key}"
                    f"{step}): other code, another machine, or a changed record"
                )
    return ""


class _Side:
    """One run of the pair, and what it takes to train it again."""

    def __init__(self, record: RunRecord, twin: Twin | None, scratch: Path | None) -> None:
        self.record, self.scratch = record, scratch
        self.settings: Config = check(record.config)
        self.dataset: data.Dataset = made(self.settings)
        if self.dataset.digest != record.about["data"]["digest"]:
            raise ConfigError(
                "compare.runs", record.about.get("run", "?"), "its data can no longer be made"
            )
        backends.load(self.settings.backend.name)  # it quiets its framework, so before the twin
        self.twin = twin or models.twin(self.settings.model.name, self.settings.backend.name)
        self.first = {k: np.asarray(v) for k, v in record.named("first").items()}
        self.samples: Any = samples_of(self.settings, self.dataset)

    def configured(self, dtype: str) -> Any:
        settings = self.settings.backend
        backend = backends.load(settings.name)
        self.device = backend.configure(
            threads=settings.threads,
            deterministic=settings.deterministic,
            device=settings.device,
            dtype=dtype,
            seed=seeds.integer(self.settings.seed, f"framework.{settings.name}"),
        )
        return backend

    def built(self, backend: Any, values: Mapping[str, np.ndarray], dtype: str) -> Any:
        return backend.build(
            self.twin,
            values=values,
            inputs=self.dataset.inputs,
            outputs=outputs_of(self.settings, self.dataset),
            settings=self.settings.model.settings,
            device=self.device,
            dtype=dtype,
        )

    def train(
        self,
        *,
        values: Mapping[str, np.ndarray] | None = None,
        dtype: str | None = None,
        permutation: int | None = None,
        forced: Forced | None = None,
        steps: int | None = None,
    ) -> RunRecord:
        """Train again, as the run did but for what is given; return what it kept."""
        dtype = dtype or self.settings.backend.dtype
        backend = self.configured(dtype)
        values = values or self.first
        model = self.built(backend, values, dtype)
        first = backend.read(model, self.twin)
        wanted = steps or self.record.steps
        arguments = how(self.settings, self.dataset)
        samples = self.samples
        if dtype != self.settings.backend.dtype:
            samples = _Cast(samples, dtype)
        if permutation is not None:
            shuffled = _Permuted(samples, self.settings.seed, permutation)
            samples = shuffled
            arguments["masks"] = arguments["masks"] and shuffled.masks(arguments["masks"])
        updates = -(-samples.count // samples.group)
        kept = self.record.arrays["lr"]  # not what the config makes of it now
        rates = np.concatenate([kept, rates_of(self.settings, self.samples)[len(kept) :]])
        with self.room() as folder:
            trace = Trace(rates=rates, full=True, folder=folder)
            backend.train(
                model, self.twin, batches=samples, epochs=-(-wanted // updates), trace=trace,
                after=lambda epoch, slots: epoch * updates >= wanted, forced=forced, resume=None,
                **arguments,
            )  # fmt: skip
            arrays = trace.collect(first)
        arrays |= {f"last/{k}": v for k, v in backend.read(model, self.twin).items()}
        return RunRecord(about=self.record.about, arrays=arrays)

    @contextlib.contextmanager
    def room(self) -> Iterator[Path | None]:
        """Give a folder for rows; those that are mapped stay readable when it is gone."""
        if self.scratch is None:
            yield None
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rows-", dir=self.scratch) as folder:
            yield Path(folder)

    def predict(self, values: Mapping[str, np.ndarray], dtype: str) -> np.ndarray:
        """Return the outputs on the test samples with some weights."""
        backend = self.configured(dtype)
        x = self.dataset.arrays["x_test"].astype(self.settings.backend.dtype)
        outputs: np.ndarray = backend.predict(self.built(backend, values, dtype), x)
        return outputs

    def layers(
        self, dtype: str, *, values: Mapping[str, np.ndarray] | None = None, k: int = 1
    ) -> Arrays:
        """Return the activations of update k's first batch, at the start's weights or others."""
        backend = self.configured(dtype)
        model = self.built(backend, values or self.first, dtype)
        return layers_of(self.settings, self.dataset, backend=backend, model=model, k=k)

    def scored(self) -> Mapping[str, np.ndarray]:
        """Return the weights that the run was scored with."""
        return self.record.named(self.settings.train.weights)

    def gradcheck(self) -> dict[str, Any]:
        """Hold the first gradient, in float64, against central differences.

        Along one random unit direction of each tensor, with a step of 1e-6 times its norm (or 1):
        rounding leaves about eps·|loss| / 1e-6 of error, 1e-10 relative to the loss.
        """
        rng = seeds.stream(self.settings.seed, "gradcheck")
        start = {k: v.astype(np.float64) for k, v in self.first.items()}
        one = partial(self.train, dtype="float64", steps=1)
        here = one(values=start).arrays
        if not any(key.startswith("grad/") for key in here):
            return {"why": "this loop hands out no gradients"}
        whole = float(here["grad_norm"][0])
        found = {}
        for key in [key for key in here if key.startswith("grad/")]:
            name = key[len("grad/") :]
            direction = rng.normal(size=start[name].shape)
            direction /= np.linalg.norm(direction)
            h = 1e-6 * max(1.0, float(np.linalg.norm(start[name])))
            up, down = (
                one(values=start | {name: start[name] + sign * h * direction}).arrays["loss"][0]
                for sign in (1, -1)
            )
            slope = float(np.sum(here[key][0] * direction))
            found[name] = abs(float(up - down) / (2 * h) - slope) / (whole or 1.0)
        result: dict[str, Any] = {"central differences": found, "largest": max(found.values())}
        if self._has_numpy():
            theirs = _numpy(self, "float64").train(values=start, dtype="float64", steps=1).arrays
            result["hand-derived"] = {
                key[len("grad/") :]: float(np.linalg.norm(theirs[key][0] - here[key][0]))
                / (whole or 1.0)
                for key in here
                if key.startswith("grad/")
            }
        return result

    def _has_numpy(self) -> bool:
        return (
            "numpy" in models.backends_of(self.settings.model.name)
            and self.settings.train.loop == "manual"
        )


def _forced(sides: Mapping[str, _Side]) -> Arrays:
    """Train b from a's states in its own precision, and both in the other one."""
    a, b = sides["a"], sides["b"]
    state, dtype = states(a.record), a.settings.backend.dtype
    steps = min(side.record.steps for side in sides.values())  # early stopping may end one before
    arrays: Arrays = {}
    for key, rows in steps_of(b.train(forced=state, steps=steps)).items():
        arrays[f"forced/{key}"] = rows
    forced = {key.removeprefix("forced/"): rows for key, rows in arrays.items()}
    own = {"a": steps_of(a.record), "b": forced}
    other = "float64" if dtype == "float32" else "float32"
    found = {
        name: steps_of(side.train(dtype=other, forced=state, steps=steps))
        for name, side in sides.items()
    }
    for name, kept in own.items():
        # A batch of one sample has no other order: float64 needs a second look at its rounding.
        for key in ["loss"] if dtype == "float32" else [key for key in kept if key != "lr"]:
            gap = distance.rows(
                *(rows[:steps].astype(np.float64) for rows in (kept[key], found[name][key]))
            )
            arrays[f"rounding/{name}/{key}"] = gap.apart * _shrink(dtype)
    if dtype == "float32":  # a run in float64 has no wider one to be proved in
        for key in found["a"]:
            if key in found["b"] and key != "lr":
                arrays[f"exact/{key}"] = distance.rows(found["a"][key], found["b"][key]).apart
    return arrays


def states(record: RunRecord) -> Forced:
    """Return a function from an update's number to the recorded state that it starts from."""
    parameters, slots = record.named("param"), record.named("slot")
    names = dict.fromkeys(key.split("/", 1)[0] for key in slots)

    def state(k: int) -> tuple[Arrays, dict[str, Arrays]]:
        kept = {
            slot: {
                key.split("/", 1)[1]: rows[k - 2] if k > 1 else np.zeros_like(rows[0])
                for key, rows in slots.items()
                if key.split("/", 1)[0] == slot
            }
            for slot in names
        }
        return {name: rows[k - 1] for name, rows in parameters.items()}, kept

    return state


def _shrink(dtype: str) -> float:
    """How much smaller a rounding is than the difference of float32 and float64 shows it."""
    return 1.0 if dtype == "float32" else float(np.finfo("float64").eps / np.finfo("float32").eps)


def _flipped(sides: Mapping[str, _Side], k: int) -> dict[str, Any]:
    """Look for a value that stands on the other side of 0 in the other run, before update k.

    First with both at a's weights, then each at its own; of the first layer where there is one,
    the value nearest to 0.
    """
    own = {name: states(side.record)(k)[0] for name, side in sides.items()}
    for equal, values in ((True, {"a": own["a"], "b": own["a"]}), (False, own)):
        shown = {
            name: side.layers(side.settings.backend.dtype, values=values[name], k=k)
            for name, side in sides.items()
        }
        for key, one in shown["a"].items():
            other = shown["b"].get(key)
            if other is None or other.shape != one.shape or key == "layer/output":
                continue
            straddles = np.sign(one) != np.sign(other)
            if straddles.any():
                size = np.where(straddles, np.maximum(np.abs(one), np.abs(other)), np.inf)
                index = np.unravel_index(int(np.argmin(size)), one.shape)
                return {
                    "layer": key.removeprefix("layer/"),
                    "index": [int(i) for i in index],
                    "a": float(one[index]),
                    "b": float(other[index]),
                    "equal": equal,
                }
    return {}


def _layers(sides: Mapping[str, _Side]) -> Arrays:
    arrays: Arrays = {}
    wide, shrink = {}, _shrink(sides["a"].settings.backend.dtype)
    for name, side in sides.items():
        wide[name] = side.layers("float64")
        for key, values in side.layers("float32").items():
            gap = np.linalg.norm((values.astype(np.float64) - wide[name][key]).ravel())
            arrays[f"rounding/{name}/{key}"] = np.array([gap * shrink])
    if shrink == 1:
        for key in wide["a"]:
            if key in wide["b"] and wide["a"][key].shape == wide["b"][key].shape:
                gap = np.linalg.norm((wide["a"][key] - wide["b"][key]).ravel())
                arrays[f"exact/{key}"] = np.array([gap])
    return arrays


def _predictions(sides: Mapping[str, _Side]) -> Arrays:
    """Return b's prediction at a's weights, and how far each rounds there."""
    a = sides["a"]
    values, dtype = a.scored(), a.settings.backend.dtype
    wide = {name: side.predict(values, "float64") for name, side in sides.items()}
    narrow = {name: side.predict(values, "float32") for name, side in sides.items()}
    arrays: Arrays = {"prediction": sides["b"].predict(values, dtype)}
    for name in sides:
        gap = np.linalg.norm((narrow[name].astype(np.float64) - wide[name]).ravel())
        arrays[f"rounding/{name}/prediction"] = np.array([gap * _shrink(dtype)])
    if _shrink(dtype) == 1:
        gap = np.linalg.norm((wide["a"] - wide["b"]).ravel())
        arrays["exact/prediction"] = np.array([gap])
    return arrays


def _numpy(side: _Side, dtype: str) -> _Side:
    """Return the NumPy side of a run's model, on the very numbers that the run saw."""
    values = side.record.config
    instead = {"name": "numpy", "dtype": dtype, "execution": "eager", "xla": False}
    values = {**values, "backend": {**values["backend"], **instead}}
    about = {**side.record.about, "config": values}
    other = _Side(RunRecord(about=about, arrays=side.record.arrays), None, side.scratch)
    other.samples = _Cast(side.samples, dtype)
    return other


def _reference(sides: Mapping[str, _Side]) -> tuple[str, Arrays]:
    """Train in higher precision, and return how far each side is from that at each step.

    In ulps of the norm of all parameters, ``‖θ − θ*‖ / (eps·‖θ*‖)``.
    """
    a = sides["a"]
    dtype = a.settings.backend.dtype
    if a._has_numpy():
        name = "NumPy, longdouble"
        reference = _numpy(a, "longdouble").train(dtype="longdouble")
    elif dtype == "float32":
        name = f"{a.settings.backend.name}, float64"
        reference = a.train(dtype="float64")
    else:
        return "", {}
    exact = reference.named("param")
    whole = np.sqrt(np.sum([_squares(rows) for rows in exact.values()], axis=0))
    unit = float(np.finfo(dtype).eps) * np.where(whole > 0, whole, whole.max() or 1.0)  # from zero
    arrays: Arrays = {}
    for side, each in sides.items():
        gaps = [_squares(exact[key], rows) for key, rows in each.record.named("param").items()]
        n = min(len(unit), each.record.steps + 1)
        arrays[f"error/{side}"] = np.sqrt(np.sum([gap[:n] for gap in gaps], axis=0)) / unit[:n]
    return name, arrays


def _squares(exact: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the squared norm of each row, or of its distance from another's.

    A piece at a time: a long run in extended precision is too large to be held twice.
    """
    n = len(exact) if rows is None else min(len(exact), len(rows))
    found = np.empty(n)
    tall = max(1, _BLOCK // max(1, exact[0].size))
    for top in range(0, n, tall):
        part = slice(top, min(top + tall, n))
        gap = exact[part] if rows is None else rows[part].astype(exact.dtype) - exact[part]
        flat = gap.reshape(len(gap), -1)
        found[part] = np.einsum("ij,ij->i", flat, flat)
    return found


def _proved(native: Sequence[RunRecord], wide: Sequence[RunRecord]) -> dict[str, Any]:
    """Compare the distance of two free runs with the same in float64."""
    found = {}
    for name, (a, b) in (("native", native), ("float64", wide)):
        one, other = a.named("param"), b.named("param")
        n = min(len(side[k]) for side in (one, other) for k in one)
        rows = [distance.rows(one[k][:n], other[k][:n]) for k in one]
        apart = np.sqrt(np.sum([r.apart**2 for r in rows], axis=0))
        found[name] = float((apart / np.sqrt(np.sum([r.size**2 for r in rows], axis=0))).max())
    return found | {"ratio": found["native"] / found["float64"] if found["float64"] else None}


class _Cast:
    """Batches in another precision, of the very numbers that the run saw."""

    def __init__(self, batches: AnyBatches, dtype: str) -> None:
        self.size, self.group, self.fixed = batches.size, batches.group, batches.fixed
        self.count, self._batches, self._dtype = batches.count, batches, dtype

    def blocks(self, epoch: int) -> Any:
        for x, y in self._batches.blocks(epoch):
            yield x.astype(self._dtype), y.astype(self._dtype)


class _Permuted:
    """Batches whose samples, and dropout masks, are in another order within each batch."""

    fixed = False

    def __init__(self, batches: AnyBatches, seed: int, number: int) -> None:
        self.size, self.group, self.count = batches.size, batches.group, batches.count
        self._batches, self._seed, self._number = batches, seed, number

    def order(self, k: int, part: int, length: int) -> np.ndarray:
        """Return the order of one batch of update k."""
        name = f"probe.{self._number}.{k}.{part}"
        return seeds.stream(self._seed, name).permutation(length)

    def blocks(self, epoch: int) -> Any:
        k, part = (epoch - 1) * -(-self.count // self.group) + 1, 0
        for x, y in self._batches.blocks(epoch):
            orders = []
            for start in range(0, len(x), self.size):
                length = min(self.size, len(x) - start)
                orders.append(start + self.order(k, part, length))
                part += 1
                if part == self.group:
                    k, part = k + 1, 0
            order = np.concatenate(orders)
            yield x[order], y[order]

    def masks(self, draw: Callable) -> Callable:
        def masks(k: int, sizes: list[int]) -> list[list[np.ndarray]]:
            return [
                [mask[self.order(k, part, len(mask))] for mask in own]
                for part, own in enumerate(draw(k, sizes))
            ]

        return masks
