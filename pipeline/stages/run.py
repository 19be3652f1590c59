"""One tracked run made of stages; everything is checked before anything is created."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from pipeline import (
    backends,
    checkpoint,
    config,
    data,
    models,
    optimizers,
    plots,
    seeds,
    spool,
    storage,
    tracking,
)
from pipeline.backends.base import Backend
from pipeline.config import Config, ConfigError
from pipeline.data import batches
from pipeline.data.batches import Batches, StreamedBatches
from pipeline.record import NonFiniteLossError, RunRecord
from pipeline.stages.check import check, encoder, made, masks_of, outputs_of
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
    resume: bool,
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
    resume
        Whether to go on from the checkpoint of the same job, if there is one.
    progress
        Given the number of updates, opens what shows how far training is.

    Raises
    ------
    ConfigError
        Before anything was created.
    NonFiniteLossError
        After the run was closed as FAILED with what it had.
    """
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
    tracking.prepare(
        settings.tracking.uri, started=parent is not None, stale=settings.tracking.stale
    )
    if "generate" in settings.stages:
        with _room_for(DATA):
            generate(dataset, folder=DATA)
    dataset = stored(dataset, folder=DATA)

    versions = {"numpy": np.__version__, **backend.versions()}
    outputs = outputs_of(settings, dataset)
    samples = samples_of(settings, dataset)
    rates = rates_of(settings, samples)
    full, kept = traced(settings, first=first, steps=len(rates))
    differences = inexact(settings)
    for reason in differences:
        print(f"twingrad: warning: train.loop={settings.train.loop}: {reason}", file=sys.stderr)
    record = RunRecord(
        about={
            "config": redacted(values),
            "status": "RUNNING",
            "message": "",
            "device": device,
            "versions": versions,
            "code": storage.tree_digest(PACKAGE),
            "data": {"digest": dataset.digest, "name": dataset.name, "facts": dataset.facts},
            "least_squares": optimum(settings, dataset),
            "trace": kept,
            "updates_per_epoch": -(-samples.count // samples.group),
            "scores": {},
            "time": {},
        }
    )
    twin = models.twin(settings.model.name, settings.backend.name)
    keep = Checkpoints(settings, values, dataset)
    before = keep.found() if resume else None
    own = None if before is None else before.named("first")
    model = backend.build(
        twin,
        values=first if settings.model.init == "shared" else own,
        inputs=dataset.inputs,
        outputs=outputs,
        settings=settings.model.settings,
        device=device,
        dtype=settings.backend.dtype,
    )
    tags = {
        "kind": "run",
        "backend": settings.backend.name,
        "sweep": parent or "",
        **same_job(values, dataset),
        "git.commit": git_commit(),
        "versions": versions,
    }
    if before is not None:
        tags |= {"resumed.from": before.about["run"], "resumed.epoch": str(before.epoch)}
        print(f"goes on after epoch {before.epoch} of run {before.about['run']}", flush=True)
    if differences:
        tags["native.differences"] = "; ".join(differences)
    place = {"experiment": settings.tracking.experiment, "artifacts": settings.tracking.artifacts}
    pace = tracking.Pace(
        flush=settings.tracking.flush,
        heartbeat=settings.tracking.heartbeat,
        wait=settings.tracking.wait,
    )
    opened = tracking.open_run(
        **place, name=name, tags=tags, parent=parent, folder=folder, pace=pace
    )
    with keep.held(goes_on=before is not None), opened as tracked:
        record.about["run"] = tracked.id
        keep.about = {"run": tracked.id, "folder": str(folder.absolute()), "config": record.config}
        tracked.log_params(config.flatten(redacted(values)))
        tracked.log_data(
            *(dataset.arrays.get(key, dataset.arrays[other]) for key, other in
              (("x_train", "x_test"), ("y_train", "y_test"))),
            name=dataset.name, digest=dataset.digest,
        )  # fmt: skip
        with _account(record, tracked, dataset=dataset, folder=folder, settings=settings):
            if full:
                start = backend.read(model, twin)
                copy = rebuilt(settings, start, dataset, backend=backend, device=device)
                record.arrays |= layers_of(settings, dataset, backend=backend, model=copy)
            follow = tracked.follower(total=len(rates), points=settings.tracking.max_points)
            with progress(len(rates)) as shown:

                def told(step: int, loss: float) -> None:
                    shown(step, loss)
                    follow(step, {"train/loss": loss, "train/lr": rates[step - 1]})

                train(
                    record,
                    backend=backend,
                    model=model,
                    twin=twin,
                    batches=samples,
                    dataset=dataset,
                    epochs=settings.train.epochs,
                    rates=rates,
                    full=full,
                    progress=told,
                    log_every=settings.train.log_every,
                    evaluate_every=settings.train.evaluate_every,
                    patience=settings.train.patience,
                    monitor=settings.train.monitor,
                    keep=keep if keep.wanted else None,
                    resume=before,
                    folder=folder / "record",
                    **how(settings, dataset),
                )
            if settings.train.weights == "best":
                best = record.named("best")
                model = rebuilt(settings, best, dataset, backend=backend, device=device)
            if "evaluate" in settings.stages:
                evaluate(record, backend=backend, model=model, dataset=dataset)
        if settings.tracking.model and backend.FLAVOR:
            example = dataset.arrays["x_test"][:5].astype(settings.backend.dtype)
            prediction = backend.predict(model, example)
            try:
                tracked.log_model(
                    model,
                    flavor=backend.FLAVOR,
                    x=example,
                    prediction=prediction,
                    requires=_requirements(settings.backend.name, versions),
                )
            except Exception as error:  # control flow that depends on data cannot be exported
                reason = tracking.redact(f"{type(error).__name__}: {error}")
                tracked.log_tags({"model.missing": reason[:500]})
                print("twingrad: warning: the model could not be logged", file=sys.stderr)
    return record


def same_job(values: Mapping[str, Any], dataset: data.Dataset) -> dict[str, str]:
    """Return what makes two jobs the same: their config's, their data's and the code's digests."""
    return {
        "config.digest": config.digest(values),
        "data.digest": dataset.digest,
        "code.digest": storage.tree_digest(PACKAGE),
    }


class Checkpoints:
    """Where a job's checkpoints are, and when the next one is due.

    Jobs whose config, data and code are the same have one place. Of two that run at the same time
    only the first writes there.
    """

    def __init__(self, settings: Config, values: Mapping[str, Any], dataset: data.Dataset) -> None:
        self.same = same_job(values, dataset)
        key = hashlib.sha256(json.dumps(self.same, sort_keys=True).encode()).hexdigest()[:24]
        self.folder = checkpoint.HOME / key
        self.every = settings.train.checkpoint
        self.wanted = self.every is not None and settings.train.loop == "manual"
        self.about: dict[str, Any] = {}
        self._last = time.monotonic()

    def found(self) -> checkpoint.Checkpoint | None:
        """Return the last checkpoint, None where there is none that can be read."""
        try:
            return checkpoint.load(self.folder)
        except ValueError as error:
            print(f"twingrad: warning: {error}; begins anew", file=sys.stderr)
            return None

    @contextlib.contextmanager
    def held(self, *, goes_on: bool) -> Iterator[None]:
        """Keep other processes from the place, and clear it when the job is through.

        Before a job that does not go on from what is there it is cleared, too: the rows of another
        training are no part of its record.
        """
        if not self.wanted:
            yield
            return
        checkpoint.HOME.mkdir(parents=True, exist_ok=True)
        lock = FileLock(checkpoint.HOME / f".{self.folder.name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:  # the same job runs elsewhere, too
            self.wanted = False
            yield
            return
        try:
            if not goes_on:
                checkpoint.clear(self.folder)
            yield
            checkpoint.clear(self.folder)
        except NonFiniteLossError:
            checkpoint.clear(self.folder)  # it would fail at the same step again
            raise
        finally:
            lock.release()

    def due(self) -> bool:
        """Whether so many seconds have passed since the last one."""
        return self.every is not None and time.monotonic() - self._last >= self.every

    def save(self, *, epoch: int, counted: Mapping[str, Any], **what: Any) -> None:
        """Write one."""
        about = {**self.about, **self.same, "counted": counted}
        with _room_for(self.folder):
            checkpoint.save(self.folder, epoch=epoch, about=about, **what)
        self._last = time.monotonic()


def interrupted(run: str, *, key: str) -> dict[str, Any]:
    """Return who wrote the checkpoint of an interrupted run, by the run's id or folder.

    Raises
    ------
    ConfigError
        If there is none, or it was made by other code.
    """
    known = {}
    for folder in sorted(checkpoint.HOME.glob("*/")):
        about = checkpoint.about(folder)
        if about is not None:
            known[str(about["run"])] = about
    here = str(Path(run).absolute())
    found = known.get(run) or next((a for a in known.values() if a["folder"] == here), None)
    if found is None:
        there = f"those there are: {', '.join(known)}" if known else "there is none at all"
        raise ConfigError(key, run, f"no checkpoint of such a run in {checkpoint.HOME}; {there}")
    if found["code.digest"] != storage.tree_digest(PACKAGE):
        raise ConfigError(key, run, "was made by other code; run it anew")
    return found


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
    text = yaml.safe_dump(record.config, sort_keys=False)
    with _room_for(folder / "config.yaml"):
        storage.write_atomic(folder / "config.yaml", lambda file: file.write(text.encode()))
    tracked.log_file(folder / "config.yaml")
    try:
        yield
        record.about["status"] = "FINISHED"
    except NonFiniteLossError as error:
        record.about |= {"status": "FAILED", "message": str(error)}
        tracked.log_tags({"failed.step": error.step, "failed.lr": error.lr})
        raise
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        message = tracking.redact(repr(error))
        record.about |= {"status": "KILLED" if killed else "FAILED", "message": message}
        raise
    finally:
        log(record, tracked, points=settings.tracking.max_points)
        record.about["run"] = tracked.id
        with _room_for(folder / "record"):
            record.save(folder / "record")
        tracked.log_folder(folder / "record", "record")
        if record.about["status"] != "KILLED":  # who stops a run does not wait for pictures
            alone = tracked.parent is None
            figures = (
                plots.single(record, dataset)
                if alone
                else {"overview": plots.overview(record, dataset)}
            )
            with _room_for(folder / "plots"):
                plots.save(
                    figures, folder / "plots", formats=settings.tracking.figures,
                    dpi=plots.DPI if alone else plots.DPI // 2,  # of hundreds, small ones
                )  # fmt: skip
            tracked.log_folder(folder / "plots", "plots")


@contextlib.contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Say of a full disk what did not fit; the half of a record that did makes room again."""
    try:
        yield
    except OSError as error:
        if not spool.is_full(error):
            raise
        if path.name == "record" and not (path / "record.json").exists():
            shutil.rmtree(path, ignore_errors=True)
        named = error.filename or path
        raise OSError(errno.ENOSPC, "the disk is full", str(named)) from None


def log(record: RunRecord, tracked: tracking.Run, *, points: int) -> None:
    """Log a record's curves and numbers under the names that users rely on."""
    curves = {"train/loss": "loss", "train/lr": "lr", "train/grad_norm": "grad_norm"}
    series = {key: record.arrays[name] for key, name in curves.items() if name in record.arrays}
    tracked.log_series(series, steps=np.arange(1, record.steps + 1), points=points)
    paths = record.named("param")
    if sum(path[0].size for path in paths.values()) <= 8:
        scalars = {}
        for name, path in paths.items():
            for i, column in enumerate(path.reshape(len(path), -1).T):
                scalars[f"param/{name}" if path[0].size == 1 else f"param/{name}.{i}"] = column
        tracked.log_series(scalars, steps=np.arange(record.steps + 1), points=points)
    validated = record.named("val")
    if validated:
        steps = validated.pop("step")
        series = {f"val/{name}": values for name, values in validated.items()}
        tracked.log_series(series, steps=steps, points=points)
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
    best = record.named(settings.train.weights)
    model = rebuilt(settings, best, dataset, backend=backend, device=device)
    scores = evaluate(record, backend=backend, model=model, dataset=dataset)
    tracked = tracking.reopen(str(record.about.get("run", run_id)))
    record.save(folder)
    if tracked is not None:
        tracked.log_metrics({f"eval/{k}": v for k, v in scores.items()}, step=record.steps)
        tracked.log_folder(folder, "record")
    return record, scores


def rebuilt(
    settings: Config,
    values: Mapping[str, np.ndarray],
    dataset: data.Dataset,
    *,
    backend: Backend,
    device: str,
) -> Any:
    """Return a run's model again, with some weights."""
    return backend.build(
        models.twin(settings.model.name, settings.backend.name),
        values=values,
        inputs=dataset.inputs,
        outputs=outputs_of(settings, dataset),
        settings=settings.model.settings,
        device=device,
        dtype=settings.backend.dtype,
    )


def samples_of(settings: Config, dataset: data.Dataset) -> Batches | StreamedBatches:
    """Return the training samples in the order and precision of a run."""
    return batches.of(
        dataset,
        size=settings.train.batch,
        shuffle=settings.train.shuffle,
        stream=partial(seeds.stream, settings.seed),
        dtype=settings.backend.dtype,
        encode=encoder(settings, dataset),
        group=settings.optimizer.accumulate,
    )


def rates_of(settings: Config, samples: Batches | StreamedBatches) -> np.ndarray:
    """Return the learning rate of each update."""
    return learning_rates(
        settings.schedule.name,
        lr=settings.optimizer.lr,
        steps=settings.train.epochs * -(-samples.count // samples.group),
        settings=settings.schedule.settings,
    )


def how(settings: Config, dataset: data.Dataset) -> dict[str, Any]:
    """Return what a backend's loop takes besides model, samples and rates."""
    return {
        "loop": settings.train.loop,
        "loss": settings.loss.name,
        "loss_settings": settings.loss.settings,
        "update": update_of(settings),
        "execution": settings.backend.execution,
        "xla": settings.backend.xla,
        "masks": masks_of(settings, dataset),
    }


def layers_of(
    settings: Config, dataset: data.Dataset, *, backend: Backend, model: Any, k: int = 1
) -> dict[str, np.ndarray]:
    """Return what a model shows of the first batch of update k, as ``layer/<name>``.

    Its statistics move, so `model` is one that is not trained on.
    """
    samples, draw = samples_of(settings, dataset), masks_of(settings, dataset)
    updates = -(-samples.count // samples.group)
    at = (k - 1) % updates * samples.group * samples.size  # rows before it in its epoch
    for x, _ in samples.blocks((k - 1) // updates + 1):
        if at < len(x):
            x = x[at : at + samples.size]
            break
        at -= len(x)
    masks = draw(k, [len(x)])[0] if draw else []
    return {f"layer/{name}": value for name, value in backend.layers(model, x, masks).items()}


def update_of(settings: Config) -> optimizers.Update:
    """Return a config's optimizer, whole."""
    kinds = ("name", "settings", "decay", "weight_decay", "clip_norm", "accumulate")
    return optimizers.Update(**{kind: getattr(settings.optimizer, kind) for kind in kinds})


def inexact(settings: Config) -> list[str]:
    """Return what the framework's own optimizer cannot express of this config."""
    if settings.train.loop == "manual":
        return []
    optimizer = settings.optimizer
    words = {optimizer.name, optimizer.decay}
    words |= {"schedule"} if settings.schedule.name != "constant" else set()
    words |= {"clip_norm"} if optimizer.clip_norm is not None else set()
    known = backends.traits(settings.backend.name)["INEXACT"]
    return [reason for key, reason in known.items() if words >= set(key.split("+"))]


def traced(
    settings: Config, *, first: Mapping[str, np.ndarray], steps: int
) -> tuple[bool, dict[str, Any]]:
    """Return whether every step is kept whole, and what the record says of it."""
    wanted, most = settings.record.trace, settings.record.max_bytes
    size = sum(value.size for value in first.values()) * np.dtype(settings.backend.dtype).itemsize
    needed = (2 + len(update_of(settings).slots)) * steps * size
    full = wanted == "full" or (wanted == "auto" and needed <= most)
    why = f"{needed} bytes for parameters, gradients and slots, record.max_bytes={most}"
    return full, {"kept": "full" if full else "scalars", "why": why if wanted == "auto" else wanted}


def optimum(settings: Config, dataset: data.Dataset) -> dict[str, Any] | None:
    """Return the least-squares solution where the model has one and the data are in memory."""
    solve = getattr(models.spec(settings.model.name), "least_squares", None)
    if solve is None or dataset.classes is not None or "x_train" not in dataset.arrays:
        return None
    x, y = dataset.arrays["x_train"], dataset.arrays["y_train"]
    try:
        return _plain(solve(x, y, **settings.model.settings))
    except np.linalg.LinAlgError:  # powers of a feature that overflow
        return None


def load_record(folder: Path, *, key: str) -> RunRecord:
    """Read a record that the command line named; a damaged one is the user's to know."""
    try:
        return RunRecord.load(folder)
    except ValueError as error:
        raise ConfigError(key, folder.name, str(error)) from None


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
