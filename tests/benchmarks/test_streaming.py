"""Streaming from a file: speed against a bare NumPy pass, and memory, from 0.2 to 2 GB."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from pipeline import data, seeds
from pipeline.data import batches

COLUMNS = 50
BLOCK = 8192
SIZES = (200_000_000, 2_000_000_000)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of standard normal numbers, the larger with the same block many times."""
    found = {}
    piece = np.random.default_rng(0).normal(size=(BLOCK, COLUMNS))
    for size in SIZES:
        rows = size // (8 * COLUMNS)
        path = tmp_path_factory.mktemp("streamed") / f"{size}.npy"
        with path.open("wb") as file:
            about = {"descr": "<f8", "fortran_order": False, "shape": (rows, COLUMNS)}
            np.lib.format.write_array_header_1_0(file, about)
            for start in range(0, rows, BLOCK):
                piece[: rows - start].tofile(file)
        found[size] = path
    yield found
    for path in found.values():
        path.unlink()


def dataset(path, **changes):
    settings = {
        "path": str(path), "features": [str(i) for i in range(COLUMNS - 1)], "target": ["49"],
        "task": "regression", "source": "mmap", "block": BLOCK, "cap": 2 * BLOCK,
        "validation": 0.05, "test": 0.05, "standardise": True, "standardise_target": False,
        "separator": ",", "decimal": ".", "exclude": (),
    "categories": "refuse", "missing": "refuse",
    }  # fmt: skip
    return data.make("file", settings=settings | changes, stream=partial(seeds.stream, 0))


def epoch(made, *, shuffle, dtype="float32"):
    """One epoch; the bytes of the file that were read."""
    found = batches.of(
        made, size=64, shuffle=shuffle, stream=partial(seeds.stream, 0), dtype=dtype,
        encode=lambda y: y, group=1,
    )  # fmt: skip
    rows = sum(len(x) for x, _ in found.blocks(1))
    return rows * COLUMNS * 8


def bare(path):
    """A bare pass: every block of a memory map summed; the bytes of the file."""
    array, total = np.load(path, mmap_mode="r"), 0.0
    for start in range(0, len(array), BLOCK):
        total += array[start : start + BLOCK].sum()
    return array.nbytes


def speed(function):
    start = time.perf_counter()
    return function() / (time.perf_counter() - start) / 1e9


@pytest.mark.parametrize("size", SIZES)
def test_reading_against_a_bare_pass(benchmark, files, size):
    """GB of the file a second, interleaved; in file order at least half the bare pass's.

    Shuffled and standardised, each number is moved, subtracted, divided and cast besides; how much
    that costs is printed.
    """
    path = files[size]
    plain, standard = dataset(path, standardise=False), dataset(path)
    ways = {
        "bare pass": lambda: bare(path),
        "in order": lambda: epoch(plain, shuffle=False),
        "shuffled": lambda: epoch(plain, shuffle=True),
        "standardised": lambda: epoch(standard, shuffle=False),
        "shuffled and standardised": lambda: epoch(standard, shuffle=True),
    }
    for way in ways.values():
        way()
    found = [[speed(way) for way in ways.values()] for _ in range(9 if size < 1e9 else 5)]
    medians = dict(zip(ways, map(statistics.median, zip(*found, strict=True)), strict=True))
    ratio = statistics.median(row[1] / row[0] for row in found)
    print(f"\n{size / 1e9} GB:", ", ".join(f"{n} {v:.2f} GB/s" for n, v in medians.items()))
    print(f"in order over bare pass {ratio:.2f}")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(ways["in order"], rounds=1)
    assert ratio >= 0.5


MEMORY = r"""
import json, re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_streaming as t
def peak():  # of this process alone; getrusage's also counts the parent it was forked from
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
made = t.dataset(sys.argv[1])
before = peak()
for dtype in ("float32", "float64"):
    t.epoch(made, shuffle=True, dtype=dtype)
print(json.dumps([before / 1024, peak() / 1024]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_file(benchmark, files, request):
    """Peak memory of a process that makes the set and reads it twice: within 16 MB of each other."""
    peaks = []
    for size in SIZES:
        call = [sys.executable, "-c", MEMORY, str(files[size]), str(request.path.parent)]
        out = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        made, peak = json.loads(out)
        print(f"\n{size / 1e9} GB: {made:.0f} MB when made, {peak:.0f} MB after two epochs")
        peaks.append(peak)
    benchmark.pedantic(lambda: None, rounds=1)
    assert peaks[1] - peaks[0] < 16
