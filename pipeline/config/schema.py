"""The schema of a config: frozen dataclasses, and how values are checked against it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, Strict, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.config.types import (
    RULES,
    ConfigError,
    Count,
    Natural,
    NonNegative,
    Positive,
    Reasoned,
    Seconds,
    Strings,
    explain_first,
)

_schema = dataclass(frozen=True, kw_only=True, config=RULES)


@_schema
class Component:
    """One option of a group that grows by files: its name and the settings its function takes."""

    name: str
    settings: dict[str, Any]


@_schema
class Model(Component):
    """Which pair of twins, and where their first weights come from."""

    init: Literal["shared", "framework", "torch", "tensorflow"]


@_schema
class Optimizer(Component):
    """An update rule with its base learning rate; a schedule turns that into the rate of a step.

    `decay` says what `weight_decay` λ means: ``l2`` adds λ·w to the gradient, ``decoupled`` takes
    lr·λ·w from the parameter beside the rule. `clip_norm` bounds the norm of all gradients
    together. `accumulate` batches make one update.
    """

    lr: Positive
    decay: Literal["none", "l2", "decoupled"]
    weight_decay: NonNegative
    clip_norm: Positive | None
    accumulate: Count


@_schema
class Train:
    """The loop: which one, how long, on what batches, and how often it is looked at.

    `batch` None is the full batch. The validation set is scored every `evaluate_every` epochs;
    after `patience` scores without a better one training stops. `weights` are those that the test
    set is scored with. A `checkpoint` is written at the first epoch's end after so many seconds.
    """

    loop: Literal["manual", "native", "fit"]
    epochs: Count
    batch: Count | None
    shuffle: bool
    evaluate_every: Count | None
    patience: Count | None
    monitor: Literal["mse", "mae", "r2", "accuracy", "log_loss"] | None
    weights: Literal["last", "best"]
    log_every: Count
    checkpoint: Seconds | None


@_schema
class Backend:
    """A framework and how it runs; every word means the same in all of them."""

    name: str
    dtype: Literal["float32", "float64", "longdouble"]
    device: Literal["auto", "cpu", "cuda"]
    execution: Literal["eager", "compiled"]
    xla: bool
    threads: Annotated[int, Field(ge=1, le=1024)]
    deterministic: bool


@_schema
class Record:
    """What a run keeps of its steps: everything (full), or losses, rates and norms (scalars).

    ``auto`` is full as long as the record stays within `max_bytes`.
    """

    trace: Literal["auto", "full", "scalars"]
    max_bytes: Count


@_schema
class Tracking:
    """Where runs are logged, how much of them, and how often (seconds).

    `run_name` and `note` are a run's name and description, `tags` are set on it besides its own.
    `flush` lies between two deliveries while training goes on, `heartbeat` between two signs of
    life for other hosts, whose runs count as dead after `stale`. `wait` is how long a run that ends
    waits for a store that does not answer.
    """

    uri: Annotated[str, Field(min_length=1)]
    artifacts: Annotated[str, Field(min_length=1)]
    experiment: Annotated[str, Field(min_length=1, max_length=250)]
    model: bool
    max_points: Annotated[int, Field(ge=2)]
    figures: Annotated[tuple[Literal["png", "pdf", "svg"], ...], Strict(False), Field(min_length=1)]
    run_name: Annotated[str, Field(min_length=1, max_length=250)] | None
    note: str | None
    tags: dict[str, Any]
    flush: Annotated[Seconds, Field(gt=0)]
    heartbeat: Annotated[Seconds, Field(gt=0)]
    stale: Annotated[Seconds, Field(gt=0)]
    wait: Seconds


@_schema
class Parity:
    """How two runs are judged, and what a probe measures for it.

    With `rtol` or `atol` a fixed tolerance replaces the derived bounds. ``probe=auto`` lets a
    multirun measure its own pairs, as long as that takes at most about `budget` seconds.
    `precision` says what a side is that computes in less than its precision. `accept` has known
    differences, each as ``name: reason`` with the name of a rung or quantity. `margin` is the
    difference of final scores that counts as none, for runs over several seeds. ``show=auto`` folds
    the ladders of pairs that PASS to a line each.
    """

    rtol: NonNegative | None
    atol: NonNegative | None
    probe: Literal["auto", "off"]
    budget: Annotated[Seconds, Field(gt=0)]
    precision: Literal["fail", "note"]
    accept: Annotated[tuple[Reasoned, ...], Strict(False)]
    prove: bool
    gradcheck: bool
    margin: Positive | None
    show: Literal["auto", "all"]


@_schema
class Compare:
    """Which recorded runs the stage ``compare`` reads: named ones, or those of a sweep."""

    runs: Strings
    sweep: str | None


@_schema
class Sweep:
    """What surrounds a multirun.

    `metric` is what a search minimises, such as ``eval/mse``. With `rerun`, jobs that were already
    finished by the same code on the same data are run again.
    """

    title: Annotated[str, Field(max_length=250)] | None
    metric: str | None
    rerun: bool


@_schema
class Config:
    """One run, whole."""

    data: Component
    model: Model
    loss: Component
    optimizer: Optimizer
    schedule: Component
    train: Train
    backend: Backend
    record: Record
    tracking: Tracking
    parity: Parity
    compare: Compare
    sweep: Sweep
    seed: Natural
    stages: Annotated[
        tuple[Literal["generate", "train", "evaluate", "probe", "compare", "sync"], ...],
        Strict(False),
        Field(min_length=1),
    ]
    run: str | None
    resume: str | None
    terminal: Literal["auto", "quiet"]


GROUPS: dict[str, type] = {
    name: kind
    for name, kind in get_type_hints(Config).items()
    if hasattr(kind, "__dataclass_fields__")
}


def parse_config(values: Mapping[str, Any]) -> Config:
    """Check a composed config (plain containers) and return it typed.

    Raises
    ------
    ConfigError
        Naming the first key that is wrong, its value and what is allowed.
    """
    nested = dict(values)
    nested.pop("experiment", None)
    for group, kind in GROUPS.items():
        given = nested.get(group, "???")
        if not isinstance(given, Mapping):
            raise ConfigError(
                group, given, f"must be a group of keys: {', '.join(list_fields(kind))}"
            )
        if issubclass(kind, Component):
            common = {key: value for key, value in given.items() if key in list_fields(kind)}
            settings = {key: value for key, value in given.items() if key not in common}
            given = {**common, "settings": settings}
        nested[group] = _checked(kind, given, prefix=(group,))
    config: Config = _checked(Config, nested, prefix=())
    return config


# Settings that came after the first version and decide none of a run's numbers.
_LATER: dict[str, Any] = {
    "parity": {"precision": "fail", "accept": [], "show": "auto"},
    "tracking": {"run_name": None, "note": None, "tags": {}},
    "terminal": "auto",
}

# Those of data=file that decide numbers, with what the version before did.
LATER_FILE: dict[str, Any] = {
    "exclude": [], "categories": "refuse", "missing": "refuse", "separator": ",", "decimal": ".",
}  # fmt: skip


def complete_recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config with the keys of now, also one that the version before wrote.

    How runs are judged, tracked and told is no part of what was run. A setting of the data that it
    lacks is what was done then.
    """
    completed = dict(values)
    for key, default in _LATER.items():
        if not isinstance(default, Mapping):
            completed.setdefault(key, default)
            continue
        group = values[key]
        completed[key] = {
            name: group.get(name, default.get(name)) for name in list_fields(GROUPS[key])
        }
    if completed["data"].get("name") == "file":
        completed["data"] = {**LATER_FILE, **completed["data"]}
    return completed


def parse_recorded(values: Mapping[str, Any]) -> Config:
    """Check a recorded config and return it typed; see `complete_recorded`."""
    return parse_config(complete_recorded(values))


def read_accepted(entries: Iterable[str]) -> dict[str, str]:
    """Return `parity.accept` by name: why a difference there is known."""
    parts = (entry.partition(":") for entry in entries)
    return {name.strip(): reason.strip() for name, _, reason in parts}


def list_fields(kind: type) -> list[str]:
    """Return the keys that a group or the whole config has, whichever its option."""
    return sorted({field.name for field in dataclasses.fields(kind)} - {"settings"})


def _checked(kind: type, given: Mapping[str, Any], *, prefix: tuple[str, ...]) -> Any:
    """Make one dataclass of the schema; strict ones take each other only as instances."""
    try:
        return kind(**{str(key): value for key, value in given.items()})
    except ValidationError as error:
        raise explain_first(error, prefix=prefix, allowed=list_fields(kind)) from None
