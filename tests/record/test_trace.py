from __future__ import annotations

import itertools
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.pairs.arrange import to_neutral
from pipeline.pairs.pair import Place
from pipeline.record import trace as trace_module
from pipeline.record.record import RunRecord
from pipeline.record.trace import NonFiniteLossError, Trace, global_norm

ABOUT = {"config": {"backend": {"name": "torch"}, "train": {"loop": "fit"}}, "scores": {"mse": 0.1}}


def begin(steps, *, full=True, folder=None):
    """Return a trace of a transposed weight and a scalar."""
    trace = Trace(rates=np.linspace(0.1, 0.2, steps), full=full, folder=folder)
    places = [Place("p", (1, 0)), Place("p")]
    trace.bind(
        np.stack,
        {n: partial(to_neutral, p.axes, leading=1) for n, p in zip("wb", places, strict=True)},
        slots=(),
    )
    return trace


def feed(trace, losses, *, flush_every, seen=None):
    """Feed a trace as a loop does; `seen` holds how many steps were through."""
    for k, loss in enumerate(np.asarray(losses, np.float32), start=1):
        trace.start()
        g = [np.full((2, 3), k, np.float32), np.float32(-k)]
        p = [np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * k, np.float32(k)]
        norm = global_norm([a[None] for a in g])[0]
        trace.keep(loss, g if trace.full else [norm], p if trace.full else [])
        if seen is not None:
            trace.used({"rate": k})
            seen[0] = k
        if k % flush_every == 0:
            trace.flush()


def follow(losses, *, flush_every, full=True, folder=None):
    """Return a trace that was fed."""
    trace = begin(len(losses), full=full, folder=folder)
    feed(trace, losses, flush_every=flush_every)
    return trace


FIRST = {"w": np.zeros((3, 2)), "b": np.zeros(())}


@pytest.mark.parametrize("flush_every", [1, 3, 7, 100])
def test_a_trace_keeps_every_step_in_the_neutral_layout_however_often_it_is_flushed(flush_every):
    kept = follow(range(1, 8), flush_every=flush_every).collect(FIRST)
    np.testing.assert_array_equal(kept["loss"], np.arange(1, 8, dtype=np.float32))
    np.testing.assert_array_equal(kept["lr"], np.linspace(0.1, 0.2, 7))
    assert kept["param/w"].shape == (8, 3, 2)
    for k in range(1, 8):
        np.testing.assert_array_equal(kept["param/w"][k], (np.arange(6).reshape(2, 3) + 10 * k).T)
    np.testing.assert_array_equal(kept["param/b"], np.arange(8, dtype=np.float32))
    np.testing.assert_array_equal(kept["grad/b"], -np.arange(1, 8, dtype=np.float32))
    np.testing.assert_allclose(kept["grad_norm"], np.arange(1, 8) * np.sqrt(7), rtol=1e-15)
    assert kept["param/w"].dtype == kept["loss"].dtype == np.float32
    assert kept["seconds"].shape == (7,)
    assert np.all(kept["seconds"] >= 0)


@pytest.mark.parametrize("most", [0, 100, 10_000])
@pytest.mark.parametrize("flush_every", [1, 3, 100])
def test_what_is_too_much_for_memory_goes_to_the_records_files(
    tmp_path, monkeypatch, flush_every, most
):
    """With the same numbers; saving writes them no second time, and cut short it is no record."""
    monkeypatch.setattr(Trace, "_IN_MEMORY", most)
    first = FIRST | {"w": np.arange(6.0).reshape(3, 2)}
    held = follow(range(1, 8), flush_every=flush_every).collect(first)
    trace = follow(range(1, 8), flush_every=flush_every, folder=tmp_path)
    begun = sorted(path.stem for path in tmp_path.rglob("*.npy"))
    if flush_every < 100:
        assert begun == (["b", "b", "w", "w"] if most < 10_000 else [])
    kept = trace.collect(first)
    assert list(kept) == list(held)
    for key, array in held.items():
        if key != "seconds":
            np.testing.assert_array_equal(kept[key], array)
            assert (kept[key].dtype, kept[key].shape) == (array.dtype, array.shape)
    with pytest.raises(ValueError, match="no readable record"):
        RunRecord.load(tmp_path)
    there = {path: path.stat().st_ino for path in tmp_path.rglob("*.npy")}
    RunRecord(about=ABOUT, arrays=kept).save(tmp_path)
    assert {path: path.stat().st_ino for path in there} == there
    back = RunRecord.load(tmp_path).arrays
    np.testing.assert_array_equal(back["param/w"], held["param/w"])
    shorter = RunRecord(about=ABOUT, arrays={"param/w": kept["param/w"][:3]})
    shorter.save(tmp_path)
    np.testing.assert_array_equal(RunRecord.load(tmp_path).arrays["param/w"], held["param/w"][:3])


def test_a_checkpoint_takes_rows_that_are_in_files_already(tmp_path, monkeypatch):
    monkeypatch.setattr(Trace, "_IN_MEMORY", 0)
    trace = follow(range(1, 8), flush_every=2, folder=tmp_path / "a")
    taken = trace.take()
    np.testing.assert_array_equal(taken["loss"], np.arange(1, 8, dtype=np.float32))
    again = Trace(rates=np.linspace(0.1, 0.2, 7), full=True, folder=tmp_path / "b")
    again.bind(np.stack, trace._layouts, slots=())
    again.restore(taken)
    again.start()
    again.keep(np.float32(8), [np.ones((2, 3), np.float32), np.float32(1)],
               [np.ones((2, 3), np.float32), np.float32(1)])  # fmt: skip
    kept = again.collect(FIRST)
    np.testing.assert_array_equal(kept["param/b"], [0, 1, 2, 3, 4, 5, 6, 7, 1])
    np.testing.assert_array_equal(kept["grad/w"][:7], trace.collect(FIRST)["grad/w"])


def interrupt_at(number):
    """Return a tracer that raises, as a signal does, before an instruction of the trace's file."""
    counted = itertools.count(1)

    def tracer(frame, event, _):
        if frame.f_code.co_filename != trace_module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(counted) == number:
            sys.settrace(None)
            raise KeyboardInterrupt
        return tracer

    return tracer


@pytest.mark.parametrize("in_memory", [0, 1 << 27])
@pytest.mark.parametrize("full", [True, False])
def test_a_signal_at_any_instruction_loses_no_step_that_was_whole(
    tmp_path, monkeypatch, in_memory, full
):
    monkeypatch.setattr(Trace, "_IN_MEMORY", in_memory)
    number, stopped, before = 0, True, sys.gettrace()
    while stopped:
        number += 37 if not in_memory else 1 if number < 120 else 13  # files take their time
        seen = [0]
        trace = begin(5, full=full, folder=tmp_path / str(number))
        sys.settrace(interrupt_at(number))
        try:
            feed(trace, range(1, 6), flush_every=2, seen=seen)
            stopped = False
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        kept = trace.collect(FIRST)
        steps = len(kept["lr"])
        assert seen[0] <= steps <= seen[0] + 1
        np.testing.assert_array_equal(kept.get("loss", []), np.arange(1, steps + 1))
        lengths = {
            len(a) - k.startswith("param/") for k, a in kept.items() if steps or "/" not in k
        }
        assert lengths == {steps}
        if full and steps:
            if seen[0]:  # within the first step it is not known that there will be one
                np.testing.assert_array_equal(kept["scalar/rate"], np.arange(1, steps + 1))
            np.testing.assert_array_equal(kept["param/b"], np.arange(steps + 1))
            np.testing.assert_array_equal(kept["grad/b"], -np.arange(1, steps + 1))
            np.testing.assert_array_equal(kept["param/w"][1:, 0, 0], 10 * np.arange(1, steps + 1))


def test_a_trace_of_scalars_keeps_no_tensor():
    kept = follow(range(1, 8), flush_every=3, full=False).collect(FIRST)
    assert set(kept) == {"loss", "lr", "seconds", "grad_norm"}
    np.testing.assert_allclose(kept["grad_norm"], np.arange(1, 8) * np.sqrt(7), rtol=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("at", "flush_every"), [(1, 1), (5, 1), (5, 3), (6, 3), (8, 4), (4, 10)])
def test_a_loss_that_is_not_finite_is_the_last_step_kept(bad, at, flush_every):
    losses = np.ones(10)
    losses[at - 1 :] = bad
    with pytest.raises(NonFiniteLossError) as caught:
        follow(losses, flush_every=flush_every)
    assert caught.value.step == at
    assert caught.value.lr == pytest.approx(np.linspace(0.1, 0.2, 10)[at - 1])
    assert f"step {at}" in str(caught.value)


def test_collect_drops_what_came_after_a_bad_loss_that_no_flush_saw():
    kept = follow([1, np.nan, 3], flush_every=100).collect(FIRST)
    np.testing.assert_array_equal(kept["loss"], np.array([1, np.nan], np.float32))
    assert {key: len(a) - key.startswith("param/") for key, a in kept.items()} == dict.fromkeys(
        kept, 2
    )


def test_an_empty_trace_and_a_started_step_are_no_steps():
    trace = follow([1.0], flush_every=1)
    trace.start()
    assert {len(a) for k, a in trace.collect(FIRST).items() if not k.startswith("param")} == {1}
    none = Trace(rates=np.ones(3), full=True)
    assert none.flush().size == 0
    assert none.collect(FIRST)["lr"].size == 0


@given(hnp.arrays(np.float32, (3, 2, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_global_norm_is_that_of_all_tensors_in_float64(values):
    expected = np.linalg.norm(values.reshape(3, -1).astype(float), axis=1)
    found = global_norm([values[:, 0], values[:, 1, :, None]])
    np.testing.assert_allclose(found, expected, rtol=1e-14)
