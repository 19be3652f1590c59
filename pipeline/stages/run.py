"""One tracked run made of stages; everything is checked before anything is created."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline import backends, config, data, models, plots, seeds, storage, tracking
from pipeline.config import Config, ConfigError
from pipeline.record import NonFiniteLossError, RunRecord
from pipeline.stages.check import check, made
from pipeline.stages.evaluate import evaluate
from pipeline.stages.generate import generate, stored
from pipeline.stages.train import learning_rates, train

PACKAGE = Path(__file__).parents[1]
DATA = Path("outputs/data")


# What cannot change once a backend has run in this process.
_fixed: dict[str, tuple[Any, ...]] = {}


def needs_own_process(settings: Config) -> bool:
    """Whether this process has already run the backend with other once-only settings."""
    wanted = _once_only(settings)
    return _fixed.get(settings.backend.name, wanted) != wanted


def _once_only(settings: Config) -> tuple[Any, ...]:
    words = backends.traits(settings.backend.name)["ONCE"]
    return tuple(getattr(settings.backend, word) for word in words)


def run(
    settings: Config,
    *,
    values: Mapping[str, Any],
    dataset: data.Dataset,
    first: Mapping[str, np.ndarray],
    folder: Path,
    name: str,
    parent: str | None,
    progress: Callable[[int], contextlib.AbstractContextManager[Callable[[int, float], None]]],
) -> RunRecord:
    """Run the stages generate, train and evaluate as one tracked run.

    Parameters
    ----------
    settings, values
        The config, typed by `check` and as plain containers.
    dataset, first
        The samples and the shared first weights.
    folder
        Where the run's own files go.
    name, parent
        The run's name, and the id of the sweep it belongs to.
    progress
        Given the number of updates, opens what shows how far training is.

    Raises
    ------
    ConfigError
        Before anything was created.
    NonFiniteLossError
        After the run was closed as FAILED with what it had.
    """
    spec = models.spec(settings.model.name)
    if settings.stages == ("generate",):
        print(f"data  {generate(dataset, folder=DATA)}")
        return RunRecord(about={"config": dict(values)})

    backend = backends.load(settings.backend.name)
    device = backend.configure(
        threads=settings.backend.threads,
        deterministic=settings.backend.deterministic,
        device=settings.backend.device,
        dtype=settings.backend.dtype,
        seed=seeds.integer(settings.seed, f"framework.{settings.backend.name}"),
    )
    _fixed[settings.backend.name] = _once_only(settings)
    tracking.prepare(settings.tracking.uri)
    if "generate" in settings.stages:
        generate(dataset, folder=DATA)
    dataset = stored(dataset, folder=DATA)

    versions = {"numpy": np.__version__, **backend.versions()}
    optimum = getattr(spec, "least_squares", None)
    record = RunRecord(
        about={
            "config": redacted(values),
            "status": "RUNNING",
            "message": "",
            "device": device,
            "versions": versions,
            "data": {"digest": dataset.digest, "name": dataset.name, "facts": dataset.facts},
            "least_squares": optimum and _plain(optimum(*training_set(dataset))),
            "scores": {},
            "time": {},
        }
    )
    twin = models.twin(settings.model.name, settings.backend.name)
    model = backend.build(
        twin,
        values=first if settings.model.init == "shared" else None,
        inputs=dataset.inputs,
        outputs=dataset.outputs,
        settings=settings.model.settings,
        device=device,
        dtype=settings.backend.dtype,
    )
    tags = {
        "kind": "run",
        "backend": settings.backend.name,
        "sweep": parent or "",
        "config.digest": config.digest(values),
        "data.digest": dataset.digest,
        "code.digest": storage.tree_digest(PACKAGE),
        "git.commit": git_commit(),
        "versions": versions,
    }
    place = {"experiment": settings.tracking.experiment, "artifacts": settings.tracking.artifacts}
    with tracking.open_run(**place, name=name, tags=tags, parent=parent) as tracked:
        record.about["run"] = tracked.id
        tracked.log_params(config.flatten(redacted(values)))
        tracked.log_data(*training_set(dataset), name=dataset.name, digest=dataset.digest)
        with _account(record, tracked, dataset=dataset, folder=folder, settings=settings):
            rates = learning_rates(
                settings.schedule.name,
                lr=settings.optimizer.lr,
                steps=settings.train.epochs,
                settings=settings.schedule.settings,
            )
            with progress(len(rates)) as shown:
                train(
                    record,
                    backend=backend,
                    model=model,
                    twin=twin,
                    dataset=dataset,
                    dtype=settings.backend.dtype,
                    rates=rates,
                    full=settings.record.trace == "full",
                    progress=shown,
                    log_every=settings.train.log_every,
                    loop=settings.train.loop,
                    loss=settings.loss.name,
                    loss_settings=settings.loss.settings,
                    optimizer=settings.optimizer.name,
                    optimizer_settings=settings.optimizer.settings,
                    execution=settings.backend.execution,
                    xla=settings.backend.xla,
                )
            if "evaluate" in settings.stages:
                evaluate(
                    record,
                    backend=backend,
                    model=model,
                    dataset=dataset,
                    dtype=settings.backend.dtype,
                )
        if settings.tracking.model:
            example = dataset.arrays["x_train"][:5].astype(settings.backend.dtype)
            tracked.log_model(
                model,
                flavor=backend.FLAVOR,
                x=example,
                prediction=backend.predict(model, example),
                requires=_requirements(settings.backend.name, versions),
            )
    return record


@contextlib.contextmanager
def _account(
    record: RunRecord,
    tracked: tracking.Run,
    *,
    dataset: data.Dataset,
    folder: Path,
    settings: Config,
) -> Iterator[None]:
    """Save and log what the record holds when its block ends, in whatever way it ends."""
    try:
        yield
        record.about["status"] = "FINISHED"
    except NonFiniteLossError as error:
        record.about |= {"status": "FAILED", "message": str(error)}
        tracked.log_tags({"failed.step": error.step, "failed.lr": error.lr})
        raise
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        record.about |= {"status": "KILLED" if killed else "FAILED", "message": repr(error)}
        raise
    finally:
        record.save(folder / "record")
        text = yaml.safe_dump(record.config, sort_keys=False)
        storage.write_atomic(folder / "config.yaml", lambda file: file.write(text.encode()))
        log(record, tracked, points=settings.tracking.max_points)
        tracked.log_file(folder / "config.yaml")
        tracked.log_folder(folder / "record", "record")
        if record.about["status"] != "KILLED":  # who stops a run does not wait for pictures
            alone = tracked.parent is None
            figures = (
                plots.single(record, dataset)
                if alone
                else {"overview": plots.overview(record, dataset)}
            )
            plots.save(figures, folder / "plots", formats=settings.tracking.figures)
            tracked.log_folder(folder / "plots", "plots")


def log(record: RunRecord, tracked: tracking.Run, *, points: int) -> None:
    """Log a record's curves and numbers under the names that users rely on."""
    curves = {"train/loss": "loss", "train/lr": "lr", "train/grad_norm": "grad_norm"}
    series = {key: record.arrays[name] for key, name in curves.items() if name in record.arrays}
    tracked.log_series(series, first=1, points=points)
    paths = record.named("param")
    if sum(path[0].size for path in paths.values()) <= 8:
        scalars = {}
        for name, path in paths.items():
            for i, column in enumerate(path.reshape(len(path), -1).T):
                scalars[f"param/{name}" if path[0].size == 1 else f"param/{name}.{i}"] = column
        tracked.log_series(scalars, first=0, points=points)
    numbers = {f"eval/{name}": value for name, value in record.about["scores"].items()}
    numbers |= {f"time/{name}": value for name, value in record.about["time"].items()}
    tracked.log_metrics(numbers, step=record.steps)


def score_again(run_id: str) -> tuple[RunRecord, dict[str, float]]:
    """Score a finished run on its own test samples again, from its record, and log the scores."""
    folder = tracking.record_folder(run_id, key="run")
    record = load_record(folder, key="run")
    settings = check(record.config)
    dataset = made(settings)
    if dataset.digest != record.about["data"]["digest"]:
        raise ConfigError("run", run_id, "its data can no longer be made: the digest differs")
    backend = backends.load(settings.backend.name)
    device = backend.configure(
        threads=settings.backend.threads,
        deterministic=settings.backend.deterministic,
        device=settings.backend.device,
        dtype=settings.backend.dtype,
        seed=0,
    )
    model = backend.build(
        models.twin(settings.model.name, settings.backend.name),
        values=record.named("last"),
        inputs=dataset.inputs,
        outputs=dataset.outputs,
        settings=settings.model.settings,
        device=device,
        dtype=settings.backend.dtype,
    )
    scores = evaluate(
        record, backend=backend, model=model, dataset=dataset, dtype=settings.backend.dtype
    )
    tracked = tracking.reopen(str(record.about.get("run", run_id)))
    record.save(folder)
    if tracked is not None:
        tracked.log_metrics({f"eval/{k}": v for k, v in scores.items()}, step=record.steps)
        tracked.log_folder(folder, "record")
    return record, scores


def load_record(folder: Path, *, key: str) -> RunRecord:
    """Read a record that the command line named; a damaged one is the user's to know."""
    try:
        return RunRecord.load(folder)
    except ValueError as error:
        raise ConfigError(key, folder.name, str(error)) from None


def training_set(dataset: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples and targets that are trained on, in float64."""
    return dataset.arrays["x_train"], dataset.arrays["y_train"]


def redacted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that may be shown: the store's URI without its password."""
    shown = {**values["tracking"], "uri": tracking.redact(values["tracking"]["uri"])}
    return {**values, "tracking": shown}


def git_commit() -> str:
    """Return the commit this code stands at, ``none`` outside its own checkout."""
    command = ["git", "-C", str(PACKAGE), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        top, commit = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return "none"
    return commit if Path(top) == PACKAGE.parent else "none"


def _requirements(backend: str, versions: Mapping[str, str]) -> list[str]:
    names = (backend, "keras", "numpy")
    return [f"{name}=={versions[name].split('+')[0]}" for name in names if name in versions]


def _plain(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(json.dumps({k: np.asarray(v).tolist() for k, v in values.items()}))
