"""Trace: what a training loop keeps of each step until it becomes the arrays of a record."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

_BLOCK = 1 << 16  # numbers made wider together, so that they stay in the cache
Stack = Callable[[Sequence[Any]], np.ndarray]


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; carries the step and its learning rate."""

    def __init__(self, step: int, lr: float, loss: float) -> None:
        """Say which `loss` ended training, at which step (from 1) and learning rate `lr`."""
        super().__init__(f"the loss became {loss} at step {step} (learning rate {lr:g})")
        self.step = step
        self.lr = lr


class Trace:
    """What a training loop keeps of each step, at the price of two list appends.

    The loop calls `start` before a step and `keep` after it, with arrays of its own kind that do
    not change afterwards. They become NumPy arrays in `flush`, many steps at a time and outside the
    timed part.

    Parameters
    ----------
    rates
        Learning rate of each step, shape ``(steps,)``.
    full
        Whether gradients and parameters are kept, or only the gradients' norm.
    folder
        The record's, where tensors go that are too many to be held; None holds all of them.
    """

    _CHUNK = 4096  # rows held as the loop's own arrays before they become NumPy ones
    _HELD = 1 << 21  # bytes of gradients held before they become norms
    _HELD_FULL = 1 << 26  # bytes of everything held before it becomes NumPy's
    _IN_MEMORY = 1 << 27  # bytes of rows, beyond which they go to the folder

    def __init__(self, *, rates: np.ndarray, full: bool, folder: Path | None = None) -> None:
        self.rates = rates
        self.full = full
        self._folder, self._files = folder, dict[str, Path]()
        self._layouts: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        self._slots: tuple[str, ...] = ()
        self._rows: list[tuple[Any, Sequence[Any], Sequence[Any], Sequence[Any]]] = []
        self._scalars: list[Mapping[str, Any]] = []
        self.without_gradient: tuple[str, ...] = ()
        self.lacking_since: dict[str, int] = {}
        self._ticks: list[float] = []
        self._parts: list[dict[str, np.ndarray]] = []
        self._steps = self._taken = self._written = 0
        self._most = 1  # until the size of the first is known

    def bind(
        self,
        stack: Stack,
        layouts: Mapping[str, Callable[[np.ndarray], np.ndarray]],
        *,
        slots: Sequence[str],
    ) -> None:
        """Say how a list of the loop's arrays becomes one NumPy array, and each one neutral.

        `layouts` has the parameters' names in the order in which the loop gives them, the trained
        ones first: gradients come for those alone. `slots` are the names of the optimizer's arrays
        for each trained parameter.
        """
        self._stack, self._layouts, self._slots = stack, dict(layouts), tuple(slots)

    @property
    def updates(self) -> int:
        """How many updates the loop has made."""
        return self._steps + len(self._rows)

    def start(self) -> None:
        """Mark the start of a step.

        Raises
        ------
        NonFiniteLossError
            If so much was kept that it was flushed, with a loss that is not finite.
        """
        if len(self._rows) >= self._most:
            self.flush()
        self._ticks.append(perf_counter())

    def keep(
        self,
        loss: Any,
        gradients: Sequence[Any],
        parameters: Sequence[Any] = (),
        slots: Sequence[Any] = (),
    ) -> None:
        """Keep one step: its loss, its gradients, and parameters and slots after it.

        A trace of scalars takes the gradients' norm; a loop may give that in their place.
        """
        self._rows.append((loss, gradients, parameters, slots))
        self._ticks.append(perf_counter())

    def used(self, scalars: Mapping[str, Any]) -> None:
        """Keep the numbers that the update of the newest step was given, such as its rate."""
        self._scalars.append(scalars)

    def lacks(self, names: Sequence[str]) -> None:
        """Note which parameters were seen to have no gradient, from the newest step on."""
        for name in names:
            self.lacking_since.setdefault(name, self.updates)
        self.without_gradient = tuple(names)

    def last_loss(self) -> float:
        """Return the newest loss; one that is not finite ends the run here.

        Raises
        ------
        NonFiniteLossError
            For the first of the losses that is not finite.
        """
        loss = float(self._rows[-1][0])
        if not math.isfinite(loss):
            self.flush()
        return loss

    def flush(self) -> np.ndarray:
        """Turn what was kept since the last flush into NumPy arrays and return its losses.

        Raises
        ------
        NonFiniteLossError
            If one of those losses is not finite; that step is the last one kept.
        """
        scalars = self._scalars
        given = scalars or any(key.startswith("scalar/") for p in self._parts[-1:] for key in p)
        whole = len(self._ticks) // 2 - self._steps  # a signal may have come within `keep`,
        rows = self._rows[: min(whole, len(scalars)) if given else whole]  # or before `used`
        if not rows:
            return np.empty(0)
        losses, gradients, parameters, slots = zip(*rows, strict=True)
        part = {"loss": self._stack(losses)}
        finite = np.isfinite(part["loss"])
        count = len(losses) if finite.all() else int(np.argmin(finite)) + 1
        for name in scalars[0] if scalars else ():
            part[f"scalar/{name}"] = np.array([float(each[name]) for each in scalars])
        if self.full:
            for kind, steps in (("grad", gradients), ("param", parameters)):
                # Not strict: statistics have no gradients, and Keras's fit has none at all.
                for (name, layout), column in zip(self._layouts.items(), zip(*steps)):  # noqa: B905
                    part[f"{kind}/{name}"] = layout(self._stack(column))
            owners = [(name, slot) for name in self._layouts for slot in self._slots]
            for (name, slot), column in zip(owners, zip(*slots)):  # noqa: B905
                part[f"slot/{slot}/{name}"] = self._layouts[name](self._stack(column))
            size, most = sum(array.nbytes for array in part.values()), self._HELD_FULL
        elif gradients[0]:
            stacks = [self._stack(column) for column in zip(*gradients, strict=True)]
            part["grad_norm"] = global_norm(stacks)
            size, most = sum(stack.nbytes for stack in stacks), self._HELD
        else:
            size, most = len(losses), self._CHUNK
        self._most = min(max(most * len(losses) // size, 1), self._CHUNK)
        part = {key: array[:count] for key, array in part.items()}
        # One call, so that a signal finds either the rows or what became of them, never neither.
        vars(self).update(
            _parts=[*self._parts, part], _steps=self._steps + count, _rows=[], _scalars=[]
        )
        self._write_out(self._IN_MEMORY)
        if not finite.all():
            lr = float(self.rates[self._steps - 1])
            raise NonFiniteLossError(self._steps, lr, float(part["loss"][count - 1]))
        return part["loss"]

    def _write_out(self, most: int) -> None:
        """Put the tensors of all rows at the end of their files, if there are so many bytes."""
        held = self._parts[self._written :]
        size = sum(a.nbytes for part in held for key, a in part.items() if "/" in key)
        if self._folder is None or size <= most:
            return
        done = sum(len(part["loss"]) for part in self._parts[: self._written])
        for part in held:
            for key in [key for key in part if "/" in key]:
                path = self._files[key] = self._folder / f"{key}.npy"
                at = done + key.startswith("param/")  # row 0 is the start, of which `collect` knows
                lies_in = getattr(part[key], "filename", None)
                if lies_in != path.resolve():  # else a signal came once it was appended
                    part[key] = _append(path, part[key], at=at, new=not done)
            done += len(part["loss"])
        self._written = len(self._parts)

    def take(self) -> dict[str, np.ndarray]:
        """Return the rows that were kept since the last call, with their ``seconds``.

        Raises
        ------
        NonFiniteLossError
            If a loss among them is not finite.
        """
        self.flush()
        parts, self._taken = self._parts[self._taken :], len(self._parts)
        rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        end = 2 * self._steps
        ticks = np.array(self._ticks[end - 2 * len(rows["loss"]) : end]).reshape(-1, 2)
        return rows | {"seconds": ticks[:, 1] - ticks[:, 0]}

    def restore(self, rows: Mapping[str, np.ndarray]) -> None:
        """Begin with rows that `take` returned in another process."""
        remaining = dict(rows)
        seconds = remaining.pop("seconds")
        self._parts, self._taken, self._steps = [remaining], 1, len(seconds)
        self._ticks = np.stack([np.zeros_like(seconds), seconds], axis=1).ravel().tolist()

    def collect(self, first: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays of a record: whole steps only, `first` as row 0 of the parameters."""
        with contextlib.suppress(NonFiniteLossError):
            self.flush()
        if self._files:
            self._write_out(0)
        for name in self._layouts:
            if f"param/{name}" in self._files:
                rows = np.load(self._files[f"param/{name}"], mmap_mode="r+")
                rows[0] = first[name]
                rows.flush()
        keys = self._parts[-1] if self._parts else {}  # of this process: in the loop's order
        arrays = {
            key: np.load(self._files[key], mmap_mode="r")
            if key in self._files
            else np.concatenate([part[key] for part in self._parts])
            for key in keys
        }
        ticks = np.array(self._ticks[: 2 * self._steps]).reshape(-1, 2)
        arrays |= {"lr": self.rates[: self._steps], "seconds": ticks[:, 1] - ticks[:, 0]}
        gradients = [array for key, array in arrays.items() if key.startswith("grad/")]
        if gradients:
            arrays["grad_norm"] = global_norm(gradients)
        for name in self._layouts:
            if f"param/{name}" in arrays and f"param/{name}" not in self._files:
                rows = arrays[f"param/{name}"]
                arrays[f"param/{name}"] = np.concatenate(
                    [first[name][None].astype(rows.dtype), rows]
                )
        return arrays


def global_norm(stacks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the Euclidean norm over all tensors at each step, in float64, shape ``(steps,)``."""
    squares = np.zeros(len(stacks[0]))
    for stack in stacks:
        flat = stack.reshape(len(stack), -1)
        rows = max(1, _BLOCK // max(1, flat.shape[1]))
        for start in range(0, len(flat), rows):
            with np.errstate(over="ignore"):
                wide = flat[start : start + rows].astype(np.float64)
            squares[start : start + rows] += np.einsum("ij,ij->i", wide, wide)
    return np.asarray(np.sqrt(squares))


def _append(path: Path, rows: np.ndarray, *, at: int, new: bool) -> np.ndarray:
    """Put rows into an ``.npy`` file, `at` being its end, and return them as they lie there.

    NumPy leaves room in the header for a first axis that grows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False,
             "shape": (at + len(rows), *rows.shape[1:])}  # fmt: skip
    with path.open("w+b" if new else "r+b") as file:
        np.lib.format.write_array_header_1_0(file, about)
        start = file.tell() + at * rows[0].nbytes
        file.seek(start)
        np.ascontiguousarray(rows).tofile(file)
    return np.memmap(path, rows.dtype, "r", start, rows.shape)
