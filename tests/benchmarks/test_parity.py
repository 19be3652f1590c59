"""What keeping every step costs, and comparing two records; ``make test`` skips it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pairs
import pytest

from pipeline import data, seeds
from pipeline.pairs.registry import find_pair
from pipeline.parity.evidence import Suspect
from pipeline.parity.quantity import Quantity
from pipeline.probe.measure import open_sides
from pipeline.probe.opinion import give_opinions, open_makers
from pipeline.probe.reference import check_gradients, compare_precisions
from pipeline.record.record import RunRecord
from pipeline.stages.probe import judge_probed, probe_pair, rerun_freely

BACKENDS = ("tensorflow", "torch")
SHAPES = {"mlp": ("vector", {"widths": [32]}), "cnn": ("image", {})}
LIMITS = {"mlp": 1.3, "cnn": 1.1}


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_a_full_trace_over_scalars(benchmark, tools, name, model):
    """A step with ``record.trace=full`` over one with ``scalars``, in turn, with Adam's slots.

    At most 1.3 for a 64-32-10 perceptron and 1.1 for the convolutional network, in batches of 32.
    """
    layout, changes = SHAPES[model]
    dataset = data.make(
        "digits",
        settings={"layout": layout, "validation": 0.1, "test": 0.2, "standardise": False},
        stream=partial(seeds.stream, 0),
    )
    x, y = dataset.arrays["x_train"], np.eye(10)[dataset.arrays["y_train"][:, 0]]
    values = find_pair(model).spec.first_values(
        seeds.stream(0, "init"), inputs=dataset.inputs, outputs=10,
        **tools.model_settings(model) | changes,
    )  # fmt: skip

    def once(full):
        """The median time of a step."""
        run = tools.train(
            name, model, x=x, y=y, values=values, rates=np.full(80, 1e-3), dtype="float32",
            loss="cross_entropy", loss_settings={"smoothing": 0.0}, optimizer="adam",
            settings=changes, full=full, size=32,
        )  # fmt: skip
        return statistics.median(run.arrays["seconds"])

    once(True), once(False)
    pairs = []
    for i in range(40 if name == "torch" else 12):
        first = bool(i % 2)
        found = {full: once(full) for full in (first, not first)}
        pairs.append((found[True], found[False]))
    ratio = statistics.median(a / b for a, b in pairs)
    us = [1e6 * statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"\n{name}, {model}: full {us[0]:.0f} µs a step, scalars {us[1]:.0f}, ratio {ratio:.3f}")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(once, args=(True,), rounds=1)
    assert ratio <= LIMITS[model]


STEPS, WIDTH = 1000, 100_000
COMPARE = r"""
import json, re, sys, time
from pathlib import Path
from pipeline.parity.distance import trajectories
from pipeline.record.record import RunRecord
def peak():  # of this process alone; getrusage's also counts the parent it was forked from
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
clock, before = time.perf_counter(), peak()
records = [RunRecord.load(Path(folder)) for folder in sys.argv[1:]]
loaded = time.perf_counter()
(found,) = trajectories(*records)
print(json.dumps([loaded - clock, time.perf_counter() - loaded, before, peak(), found.ulp]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("nature", ["alike", "apart"])
def test_comparing_two_long_records(benchmark, tmp_path, nature):
    """1,000 steps of 100,000 float32 parameters on both sides: under 5 s and 500 MB, in a process.

    Loading with its digests is in it. The sides are the same bits, or one ulp and more apart.
    """
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((STEPS + 1, WIDTH), dtype=np.float32)
    folders = [tmp_path / side for side in "ab"]
    for folder in folders:
        RunRecord(about={"config": {}}, arrays={"param/w": steps}).save(folder)
        if nature == "apart":
            steps *= np.float32(1 + 1e-6)
    call = [sys.executable, "-c", COMPARE, *map(str, folders)]
    out = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    loading, measuring, before, peak, ulp = json.loads(out)
    print(f"\n{nature}: loading {loading:.2f} s, measuring {measuring:.2f} s, "
          f"peak {peak:.0f} MB ({before:.0f} MB before)")  # fmt: skip
    assert (ulp == 0) == (nature == "alike")
    benchmark.extra_info |= {"seconds": loading + measuring, "megabytes": peak}
    benchmark.pedantic(lambda: None, rounds=1)
    assert loading + measuring < 5
    assert peak < 500


DIGITS = ("data=digits", "train=minibatch", "train.batch=64", "loss=cross_entropy", "optimizer=adam",
          "optimizer.lr=1e-3")  # fmt: skip
PROBED = {
    "article": ("experiment=article",),
    "mlp": (*DIGITS, "model=mlp", "model.widths=[32]", "train.epochs=12"),
    "cnn": (*DIGITS, "data.layout=image", "model=cnn", "train.epochs=3"),
    "rnn": (*DIGITS, "data.layout=rows", "model=rnn", "train.epochs=2"),
    "mlp float64": (*DIGITS, "model=mlp", "model.widths=[32]", "train.epochs=12",
                    "backend.dtype=float64"),
}  # fmt: skip
MOST_TRAININGS = 5.0


def timed(call):
    begun = time.process_time()
    result = call()
    return time.process_time() - begun, result


@pytest.mark.parametrize("name", PROBED)
def test_a_probe_over_the_trainings_of_its_pair(benchmark, name):
    """A probe of a right pair costs at most 5 trainings of the pair, its reference included.

    In CPU seconds, as all of it has one thread: three times training, then probing, in turn. What
    is asked for besides, and what a suspect costs, is stated apart.
    """
    overrides, ratios, parts = PROBED[name], [], {}
    for _ in range(4):
        seconds = [timed(partial(pairs.recorded, f"backend={b}", *overrides)) for b in BACKENDS]
        training, records = sum(s for s, _ in seconds), [record for _, record in seconds]
        for spent, record in seconds:  # which reference is made follows from how long runs took
            record.about["time"] = {"train_s": spent}
        probing, evidence = timed(partial(probe_pair, *records))
        ratios.append(probing / training)
        assert judge_probed(*records, evidence).verdict == "PASS"
        assert not evidence.about["opinions"], "a second opinion is stated apart"
    sides = open_sides(*records)
    suspect = Suspect("meaning", "", "a", Quantity("loss", "loss"), 2)
    evidence.arrays["apart/a/loss/loss"][1] = np.inf  # so that there is something to be suspected
    extra = {
        "second opinion": lambda: give_opinions(sides, evidence, [suspect], open_makers(sides)),
        "free rerun": lambda: rerun_freely(sides["a"]),
        "prove": lambda: compare_precisions(sides),
        "gradcheck": lambda: [check_gradients(side) for side in sides.values()],
    }
    for word, call in extra.items():
        parts[word] = timed(call)[0] / training
    ratio = statistics.median(ratios[1:])  # the first one warms up
    shown = ", ".join(f"{word} {times:.2f}" for word, times in parts.items())
    print(
        f"\n{name}: a probe is {ratio:.2f} trainings of the pair ({training:.2f} s); apart: {shown}"
    )
    benchmark.extra_info |= {"ratio": ratio, **parts}
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio <= MOST_TRAININGS
