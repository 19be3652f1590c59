"""Whether two configs, jobs or runs are the same: the one place that answers it.

It imports no framework. What it must know of one (versions, flags, CPU, device) is handed in as a
plain mapping, so that a job that was finished before is found without importing anything heavy.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config.schema import LATER_FILE

PACKAGE = Path(__file__).parent

# What does not change the numbers a run produces.
_BESIDE = (
    "tracking", "parity", "compare", "sweep", "stages", "run", "resume", "experiment", "terminal",
)  # fmt: skip
_BESIDE_TOO = ("train.checkpoint", "train.log_every")
_BACKEND = "backend.name"
# Settings that came later: with the value of what was done before, they are left out of digests, so
# that a record of the version before is the same.
_LATER = {f"data.{key}": value for key, value in LATER_FILE.items()}
# In the order in which they are looked at: of other code, the other digests mean nothing.
_OTHER = {
    "code.digest": "made by other code",
    "config.digest": "made with other settings",
    "data.digest": "made with other data",
    "environment.digest": "made with other versions, flags, CPU or device",
}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to leaf values, lists kept whole: what is logged as a run's parameters."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def decides_numbers(key: str) -> bool:
    """Whether a setting, by its dotted key, can change the numbers a run produces."""
    return key.split(".")[0] not in _BESIDE and key not in _BESIDE_TOO


def config_digest(values: Mapping[str, Any], *, without: Sequence[str] = ()) -> str:
    """SHA-256 over the part of a composed config that decides a run's numbers.

    ``1`` and ``1.0`` are one value; ``true`` is another.

    Parameters
    ----------
    values
        Nested plain containers.
    without
        Dotted keys left out.
    """
    deciding = {key: text for key, text in _texts(values).items() if key not in without}
    return digest_texts(deciding)


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys in which two configs differ and that decide numbers, sorted.

    Not ``backend.name``, in which the runs of a pair differ, and not the group `record`: what a
    run keeps of itself changes none of its numbers. A key that one of them lacks is among them.
    """
    texts, others = _texts(one), _texts(other)
    keys = [key for key in sorted({*texts, *others}) if texts.get(key) != others.get(key)]
    return [key for key in keys if key != _BACKEND and not key.startswith("record.")]


def pair_key(values: Mapping[str, Any], data_digest: str) -> tuple[str, str]:
    """Return what two runs of a pair have in common: their settings but the backend, their data."""
    return config_digest(values, without=(_BACKEND,)), data_digest


def digest_texts(texts: Mapping[str, str]) -> str:
    """SHA-256 over named texts, in the order of their names."""
    return hashlib.sha256(json.dumps(dict(texts), sort_keys=True).encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """SHA-256 over this package's source, taken once a process: what it runs was read once, too."""
    return storage.tree_digest(PACKAGE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes two jobs the same, as digests; see `identify`.

    Attributes
    ----------
    config, data, code
        Of the settings that decide numbers, of the samples, and of this package's source.
    environment
        Of the versions, flags, CPU and device that can change the bits of a result.
    asked
        What the job was asked for besides numbers, as words: ``train``, ``evaluate``, ``model``.
    """

    config: str
    data: str
    code: str
    environment: str
    asked: str

    def as_tags(self) -> dict[str, str]:
        """Return it under the names that runs and checkpoints carry it."""
        return {**self._digests(), "asked": self.asked}

    def key(self) -> str:
        """Return the name of the checkpoint's folder; what is asked for is no part of it."""
        return digest_texts(self._digests())[:24]

    def tell_difference(self, tags: Mapping[str, Any]) -> str:
        """Return how something that carries these tags was made otherwise; empty if it was not.

        What lacks one of them was made by code that did not know it yet.
        """
        digests = self._digests()
        if not set(digests) <= set(tags):
            return _OTHER["code.digest"]
        return next((text for key, text in _OTHER.items() if tags[key] != digests[key]), "")

    def _digests(self) -> dict[str, str]:
        """Return the digest behind each key of `_OTHER`, in its order."""
        return {key: getattr(self, key.split(".")[0]) for key in _OTHER}


def identify(
    values: Mapping[str, Any], *, data_digest: str, environment: Mapping[str, str]
) -> Identity:
    """Return the identity of a job.

    Parameters
    ----------
    values
        The composed config, as plain containers.
    data_digest
        Of the samples that it trains on.
    environment
        Names and values of what can change the bits of a result: the versions of its framework
        and of NumPy, flags, the CPU's capability and the device.
    """
    words = [stage for stage in ("train", "evaluate") if stage in values["stages"]]
    words += ["model"] if values["tracking"]["model"] else []
    return Identity(
        config=config_digest(values),
        data=data_digest,
        code=code_digest(),
        environment=digest_texts(environment),
        asked=" ".join(words),
    )


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that decide numbers, each as the text that stands for its value."""
    exact = {key: _exact(value) for key, value in flatten(values).items() if decides_numbers(key)}
    return {key: json.dumps(value, sort_keys=True) for key, value in exact.items()
            if key not in _LATER or value != _LATER[key]}  # fmt: skip


def _exact(value: Any) -> Any:
    """Return a value with whole floats as integers, which are exact whatever their size."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _exact(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(each) for each in value]
    return value
