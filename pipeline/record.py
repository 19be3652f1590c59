"""RunRecord: what a run was and did, as numbers and arrays, and its own files.

A record is a folder with ``record.json`` and one ``.npy`` file an array. ``record.json`` is written
last and holds the digest of every other file, so a record that is cut short or altered says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np

from pipeline import storage

FORMAT = 1
Stack = Callable[[Sequence[Any]], np.ndarray]


@dataclasses.dataclass(kw_only=True)
class RunRecord:
    """One run: facts in `about`, arrays in `arrays`.

    Attributes
    ----------
    about
        ``config`` (nested values), ``backend``, ``data`` (digest, name, facts), ``versions``,
        ``time`` (seconds and microseconds), ``scores``, ``status``, ``message``, ``least_squares``.
    arrays
        ``loss``, ``lr`` and ``grad_norm`` of shape ``(steps,)``: entry ``k − 1`` belongs to update
        ``k``, and the loss is the one before it. ``param/<name>`` of shape ``(steps + 1, ...)``,
        row 0 is the start. ``grad/<name>`` of shape ``(steps, ...)``. ``first/<name>`` and
        ``last/<name>``, the parameters at both ends. ``seconds`` of each step. ``prediction``, on
        the test samples. All in the run's own precision but ``lr``, ``grad_norm`` and ``seconds``,
        which are float64.
    """

    about: dict[str, Any]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of updates that were made and kept."""
        return len(self.arrays.get("loss", ()))

    @property
    def backend(self) -> str:
        """The backend's name."""
        return str(self.about["config"]["backend"]["name"])

    @property
    def config(self) -> dict[str, Any]:
        """The composed config, as nested plain values."""
        return dict(self.about["config"])

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays of one kind (``param``, ``grad``, ``first``, ``last``) by name."""
        start = f"{prefix}/"
        return {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}

    def label(self) -> str:
        """Return a short name that tells this run from its neighbours in a picture."""
        loop = self.config["train"]["loop"]
        return self.backend if loop == "manual" else f"{self.backend} ({loop})"

    def save(self, folder: Path) -> None:
        """Write the record; a reader sees the old one or the new one, never a mixture."""
        digests = {}
        for name, array in self.arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            path = folder / f"{name}.npy"
            storage.write_atomic(path, partial(_write, data=buffer.getvalue()))
            digests[name] = storage.file_digest(path)
        text = json.dumps({"format": FORMAT, "arrays": digests, **self.about}, indent=1)
        storage.write_atomic(folder / "record.json", lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: Path) -> RunRecord:
        """Read a record; nothing is unpickled.

        Raises
        ------
        ValueError
            If the folder holds no record, one of a newer format, or one whose files were altered.
        """
        path = folder / "record.json"
        try:
            about = json.loads(path.read_text())
            version, digests = about.pop("format"), about.pop("arrays")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} holds no readable record ({error})") from None
        if version > FORMAT:
            raise ValueError(f"{folder} was written by a newer version (format {version})")
        arrays = {}
        for name, digest in digests.items():
            file = folder / f"{name}.npy"
            if not file.is_file() or storage.file_digest(file) != digest:
                raise ValueError(f"{file} is missing or was altered after the run wrote it")
            arrays[name] = np.load(file, allow_pickle=False)
        return cls(about=about, arrays=arrays)


class NonFiniteLossError(Exception):
    """The loss became NaN or infinite; carries the step and its learning rate."""

    def __init__(self, step: int, lr: float, loss: float) -> None:
        super().__init__(f"the loss became {loss} at step {step} (learning rate {lr:g})")
        self.step = step
        self.lr = lr


class Trace:
    """What a training loop keeps of each step, at the price of two list appends.

    The loop calls `start` before a step and `keep` after it, with arrays of its own kind that do
    not change afterwards. They become NumPy arrays in `flush`, outside the timed part.

    Parameters
    ----------
    names
        The parameters' neutral names, in the order in which the loop gives them.
    rates
        Learning rate of each step, shape ``(steps,)``.
    full
        Whether gradients and parameters are kept, or only the gradients' norm.
    """

    _CHUNK = 4096  # rows held as the loop's own arrays before they become NumPy ones

    def __init__(self, names: Sequence[str], *, rates: np.ndarray, full: bool) -> None:
        self.rates = rates
        self.full = full
        self._names = list(names)
        self._rows: list[tuple[Any, Sequence[Any], Sequence[Any]]] = []
        self._ticks: list[float] = []
        self._parts: list[dict[str, np.ndarray]] = []
        self._steps = 0

    def bind(self, stack: Stack, layouts: Sequence[Callable[[np.ndarray], np.ndarray]]) -> None:
        """Say how a list of the loop's arrays becomes one NumPy array, and each one neutral."""
        self._stack, self._layouts = stack, layouts

    def start(self) -> None:
        """Mark the start of a step."""
        self._ticks.append(perf_counter())

    def keep(self, loss: Any, gradients: Sequence[Any], parameters: Sequence[Any]) -> None:
        """Keep one step: its loss, its gradients (or their norm), the parameters after it."""
        self._rows.append((loss, gradients, parameters))
        self._ticks.append(perf_counter())

    def last_loss(self) -> float:
        """Return the newest loss; one that is not finite ends the run here.

        Raises
        ------
        NonFiniteLossError
            For the first of the losses that is not finite.
        """
        loss = float(self._rows[-1][0])
        if not math.isfinite(loss) or len(self._rows) >= self._CHUNK:
            self.flush()
        return loss

    def flush(self) -> np.ndarray:
        """Turn what was kept since the last flush into NumPy arrays and return its losses.

        Raises
        ------
        NonFiniteLossError
            If one of those losses is not finite; that step is the last one kept.
        """
        if not self._rows:
            return np.empty(0)
        losses, gradients, parameters = zip(*self._rows, strict=True)
        self._rows.clear()
        part = {"loss": self._stack(losses)}
        finite = np.isfinite(part["loss"])
        kept = len(losses) if finite.all() else int(np.argmin(finite)) + 1
        if self.full:
            for kind, rows in (("grad", gradients), ("param", parameters)):
                for name, layout, column in zip(self._names, self._layouts, zip(*rows)):  # noqa: B905 - fit has no gradients
                    part[f"{kind}/{name}"] = layout(self._stack(column))
        elif gradients[0]:
            part["grad_norm"] = self._stack([norm for (norm,) in gradients]).astype(np.float64)
        self._parts.append({key: array[:kept] for key, array in part.items()})
        self._steps += kept
        if not finite.all():
            lr = float(self.rates[self._steps - 1])
            raise NonFiniteLossError(self._steps, lr, float(part["loss"][kept - 1]))
        return part["loss"]

    def collect(self, first: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays of a record: whole steps only, `first` as row 0 of the parameters."""
        with contextlib.suppress(NonFiniteLossError):
            self.flush()
        keys = self._parts[0] if self._parts else {}
        arrays = {key: np.concatenate([part[key] for part in self._parts]) for key in keys}
        ticks = np.array(self._ticks[: 2 * self._steps]).reshape(-1, 2)
        arrays |= {"lr": self.rates[: self._steps], "seconds": ticks[:, 1] - ticks[:, 0]}
        gradients = [arrays[f"grad/{name}"] for name in self._names if f"grad/{name}" in arrays]
        if gradients:
            arrays["grad_norm"] = global_norm(gradients)
        for name in self._names:
            if f"param/{name}" in arrays:
                rows = arrays[f"param/{name}"]
                arrays[f"param/{name}"] = np.concatenate(
                    [first[name][None].astype(rows.dtype), rows]
                )
        return arrays


def global_norm(stacks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the Euclidean norm over all tensors at each step, in float64, shape ``(steps,)``."""
    squares = [np.square(s.reshape(len(s), -1).astype(np.float64)).sum(axis=1) for s in stacks]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))


def _write(file: BinaryIO, *, data: bytes) -> None:
    file.write(data)
