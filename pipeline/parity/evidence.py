"""What a probe measured about a pair: norms, no judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.parity.quantity import VALIDATION, Quantity
from pipeline.record.record import RunRecord

METHOD = 2
"""Version of the method: 1 was noise floors of permuted batches, 2 is two tests from equal states.
Evidence of another version is not used."""
METHOD_NAME = "two tests from equal states (2)"
DRAWS = 16
"""Draws of a second opinion."""


class Suspect(NamedTuple):
    """A distance beyond its bound that a second opinion may excuse.

    Attributes
    ----------
    test
        ``meaning`` or ``precision``.
    side
        Of `precision` the side that is coarse; empty for `meaning`.
    source
        Whose recorded state the step starts from.
    quantity, step
        Of what, and where.
    """

    test: str
    side: str
    source: str
    quantity: Quantity
    step: int

    def to_list(self) -> list[Any]:
        """Return plain values, as JSON takes them."""
        return [self.test, self.side, self.source, *self.quantity, self.step]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Suspect:
        """Return what `to_list` gave."""
        test, side, source, kind, name, step = values
        return cls(test, side, source, Quantity(kind, name), int(step))


class Measured(NamedTuple):
    """The norms of one quantity from one side's states; arrays of shape ``(rows, 2)``."""

    own_a: np.ndarray
    own_b: np.ndarray
    apart: np.ndarray
    size: np.ndarray
    free: np.ndarray
    lonely: np.ndarray
    diverged: np.ndarray


_PARTS = Measured._fields


class Evidence:
    """What was measured of a pair, as a record of its own kind.

    Arrays, with ``<key>`` a quantity's key and rows for its steps (see `steps`):

    - ``<part>/<source>/<key>`` of each part of `Measured`, from the states of the source ``a`` or
      ``b``: ``own_a`` and ``own_b`` are |float32 − float64| of each side, ``apart`` the two sides
      in float64, ``size`` the larger of both, ``free`` the two sides in the run's precision;
      ``lonely`` tells rows that are not finite on one side alone, ``diverged`` on both.
    - ``update/<source>/<key>``: of a parameter, the larger ``‖Δw‖`` of both sides in float64.
    - ``leak/<key>``: how far a quantity of a float64 step moves, relative to its size, if the
      float32 numbers in it move by a rounding; of code that is not ours.
    - ``replay/<side>/<key>``: each side's record against its own step done again.
    - ``error/<side>``: distance to a reference in higher precision, row 0 the start.
    - ``vector/<name>/<source>/<step>/<key>``: of suspects, the values ``a32``, ``b32``, ``a64`` and
      ``b64`` themselves.

    `about` has ``method``, ``asked``, ``terms`` (n of a step's sums and of a sample's), ``replay``
    (by side, why a record does not come out again), ``opinions``, ``types`` (floating types of a
    float64 step, by side), ``narrow`` (by side, why it does not run in float64),
    ``reference``, ``prove``, ``gradcheck`` and ``probe`` (seconds).
    """

    def __init__(self, record: RunRecord) -> None:
        """Wrap a record of measurements, whose facts and arrays are shared and not copied."""
        self.about: dict[str, Any] = record.about
        self.arrays: dict[str, np.ndarray] = record.arrays
        self._opinions: dict[Suspect, dict[str, Any]] = {}

    def sources(self, quantity: Quantity) -> list[str]:
        """Return from whose states a quantity was measured."""
        return [side for side in "ab" if f"apart/{side}/{quantity.key}" in self.arrays]

    def measured(self, quantity: Quantity, source: str) -> Measured:
        """Return the norms of a quantity from one side's states."""
        return Measured(*(self.arrays[f"{part}/{source}/{quantity.key}"] for part in _PARTS))

    def put(self, quantity: Quantity, source: str, rows: Mapping[str, np.ndarray]) -> None:
        """Add rows of a quantity behind those that are there."""
        for part, values in rows.items():
            key = f"{part}/{source}/{quantity.key}"
            before = self.arrays.get(key)
            self.arrays[key] = values if before is None else np.concatenate([before, values])

    def row(self, quantity: Quantity, step: int) -> int:
        """Return the row in which a quantity's step was measured."""
        if quantity == VALIDATION:
            return list(self.about["scored"]).index(step)
        if quantity.kind == "free":
            return list(self.about["free"]).index(step)
        return 0 if quantity.kind in ("activation", "prediction") else step - 1

    def replay(self, quantity: Quantity, side: str) -> np.ndarray | None:
        """Return how far a side's record is from its own steps done again."""
        return self.arrays.get(f"replay/{side}/{quantity.key}")

    def terms(self, quantity: Quantity) -> int:
        """Return n: how many terms the longest sum has that makes a quantity."""
        kind = "sample" if quantity.kind in ("activation", "prediction", "score") else "step"
        return int(self.about["terms"][kind])

    def opinion(self, suspect: Suspect) -> dict[str, Any] | None:
        """Return the second opinion on a suspect, if one was taken."""
        opinions = self.about.get("opinions", ())
        if len(opinions) != len(self._opinions):
            self._opinions = {Suspect.from_list(o["suspect"]): o for o in opinions}
        return self._opinions.get(suspect)

    def vectors(self, quantity: Quantity, source: str, step: int) -> dict[str, np.ndarray]:
        """Return the values of a suspect by ``a32``, ``b32``, ``a64``, ``b64``; nothing else."""
        end = f"/{source}/{step}/{quantity.key}"
        return {
            key.removeprefix("vector/").removesuffix(end): values
            for key, values in self.arrays.items()
            if key.startswith("vector/") and key.endswith(end)
        }
