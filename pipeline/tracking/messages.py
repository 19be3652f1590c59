"""Messages of a queue: which ones can be delivered, how they are joined into calls, and cut."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.tracking.spool import Message, Spool

BATCH_METRICS, BATCH_OTHERS = 800, 100  # 1000 of all kinds in a call


def is_message(message: Message) -> bool:
    """Whether a line of a queue can be delivered; a damaged one is passed over."""
    match message:
        case {"create": dict(about)}:
            texts = ("experiment", "artifacts", "name", "mark")
            whole = all(_is_text(about.get(key)) for key in texts) and _is_integer(
                about.get("time")
            )
            return whole and isinstance(about.get("tags"), dict) and _are_texts(about["tags"])
        case {"params": dict(values)} | {"tags": dict(values)}:
            return _are_texts(values)
        case {"metrics": list(rows)}:
            return all(map(_is_row, rows))
        case {"table": _, "name": name}:
            return _is_path(name)
        case {"file": path, "target": target} | {"folder": path, "target": target}:
            return _is_path(path) and (target is None or _is_path(target))
        case {"input": dict(values)}:
            return _are_texts(values)
        case {"end": "FINISHED" | "FAILED" | "KILLED", "time": moment}:
            return _is_integer(moment)
    return False


def _is_row(row: Any) -> bool:
    """Whether a row of a message is a metric: key, value, time in milliseconds, step."""
    match row:
        case [name, number, moment, step]:
            numeric = isinstance(number, float) or _is_integer(number)
            return _is_text(name) and numeric and _is_integer(moment) and _is_integer(step)
    return False


def _is_text(value: Any) -> bool:
    """Whether a value is text that a store can keep: no NUL, no half of a surrogate pair."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_texts(values: Mapping[Any, Any]) -> bool:
    """Whether all names and values are text."""
    return all(_is_text(text) for pair in values.items() for text in pair)


def _is_path(value: Any) -> bool:
    """Whether a value can be the path of a file: no part is longer than a file's name may be."""
    parts = value.split("/") if _is_text(value) else []
    return bool(parts) and len(value) < 4096 and all(len(part.encode()) < 256 for part in parts)


def _is_integer(value: Any) -> bool:
    """Whether a value is an integer of 64 bits, as stores keep moments and steps."""
    return isinstance(value, int) and -(2**63) <= value < 2**63


def count_damaged(place: Spool) -> int:
    """Return how many lines of a queue cannot be delivered, one that was cut short included."""
    return sum(not is_message(message) for message, _ in place.messages(0)) + place.torn


def holds_end(place: Spool) -> bool:
    """Whether a queue says, in a line that can be delivered, how its run ended."""
    return any("end" in message and is_message(message) for message, _ in place.messages(0))


def split_batches(
    messages: Iterator[tuple[dict[str, Any], int]] | Any,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Join messages that follow each other and fit into one call of MLflow's `log_batch`."""
    joined: dict[str, Any] = {}
    last = 0
    for message, end in messages:
        (kind, *_) = message
        small = kind in ("params", "tags", "metrics")
        most = BATCH_METRICS if kind == "metrics" else BATCH_OTHERS
        if joined and (not small or len(joined.get(kind, ())) + len(message[kind]) > most):
            yield joined, last
            joined = {}
        if not small:
            yield dict(message), end
        elif kind == "metrics":
            joined = {**joined, kind: [*joined.get(kind, ()), *message[kind]]}
        else:
            joined = {**joined, kind: {**joined.get(kind, {}), **message[kind]}}
        last = end
    if joined:
        yield joined, last


def split_folder(batch: Message, *, folder: Path) -> list[Message]:
    """Return the files of a folder, one message each; what is no folder as it is."""
    start, target = folder / batch["folder"], Path(batch["target"] or "")
    if not start.is_dir():
        return [{"file": batch["folder"], "target": batch["target"]}]
    messages: list[Message] = []
    for path in sorted(path for path in start.rglob("*") if path.is_file()):
        place = (target / path.parent.relative_to(start)).as_posix()
        messages.append(
            {"file": os.path.relpath(path, folder), "target": None if place == "." else place}
        )
    return messages


def halve(batch: Message) -> list[Message]:
    """Return two halves of a batch; nothing if it cannot be cut."""
    if not set(batch) <= {"params", "tags", "metrics"}:
        return []
    if len(batch) > 1:
        return [{kind: values} for kind, values in batch.items()]
    ((kind, values),) = batch.items()
    entries = list(values if kind == "metrics" else values.items())
    middle = len(entries) // 2
    halves = [entries[:middle], entries[middle:]] if middle else []
    return [{kind: half if kind == "metrics" else dict(half)} for half in halves]
