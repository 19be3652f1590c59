"""The rung `data`: which sample, which batch, which epoch; and runs of other length."""

from __future__ import annotations

import hand
import numpy as np
import pytest

from pipeline.parity.ladder import judge

SIZES = (4, 4, 2)


def batches(change=None, *, sizes=SIZES, group=1, other_sizes=None):
    a, b = hand.pair()
    hand.with_batches(a, sizes, group=group)
    hand.with_batches(b, other_sizes or sizes, group=group, change=change)
    return a, b


def finding(a, b):
    ladder = judge(a, b)
    assert (ladder.verdict, ladder.kind, ladder.finding.rung) == ("FAIL", "data", "data")
    json_free = ladder.to_dict()["finding"]
    assert json_free["kind"] == "data"
    return ladder.finding


def test_equal_batches_pass():
    ladder = judge(*batches())
    assert (ladder.verdict, ladder.rungs[0].by) == ("PASS", "bits")


def test_other_samples_or_splits_fail_first():
    a, b = hand.pair()
    b.about["data"] = b.about["data"] | {"digest": "e"}
    assert finding(a, b).detail == "other samples or splits"
    assert (
        judge(a, b)
        .sentence()
        .startswith("The two did not see the same data: data: data; other samples")
    )


def test_the_sample_that_differs_is_named_and_whether_in_x_or_y():
    def in_x(x, y):
        x[4 + 3, 1] += np.float32(1e-6)  # batch 2, sample 3

    def in_y(x, y):
        y[10 + 8] += 1  # epoch 2, batch 3, sample 0

    def in_both(x, y):
        x[1], y[3] = 0, 0

    def in_all(x, y):
        x += 1

    assert (
        finding(*batches(in_x)).detail
        == "the batch of step 2 holds other samples: sample 3 of the batch, in x"
    )
    assert (
        finding(*batches(in_y)).detail
        == "the batch of step 6 holds other samples: sample 0 of the batch, in y"
    )
    assert finding(*batches(in_both)).detail.endswith("samples 1, 3 of the batch, in x and y")
    assert finding(*batches(in_all, sizes=(6, 2, 2))).detail.endswith(
        "samples 0, 1, 2, 3, … of the batch, in x"
    )
    assert finding(*batches(in_x)).step == 2


@pytest.mark.parametrize("part", ["x", "y"])
def test_without_fingerprints_of_rows_the_part_is_named(part):
    def change(x, y):
        {"x": x, "y": y}[part][5] += 1

    a, b = batches(change)
    for side in (a, b):
        for name in "xy":
            side.arrays[f"order/{name}_rows"] = side.arrays[f"order/{name}_rows"][:3]
    assert finding(a, b).detail == f"the batch of step 2 holds other samples: in {part}"


def test_the_same_samples_in_another_order():
    def turned(x, y):
        for array in (x, y):
            array[[4, 5]] = array[[5, 4]]

    found = finding(*batches(turned))
    assert found.detail.startswith(
        "the batch of step 2 holds the same, in another order: samples 0, 1"
    )


def test_a_dropped_last_batch_is_told_with_both_counts():
    found = finding(*batches(sizes=(4, 4, 2), other_sizes=(4, 4)))
    assert found.detail == ("epoch 1 has 3 batches in torch and 2 in tensorflow: tensorflow lacks the "
                            "batch of 2 samples at step 3")  # fmt: skip
    assert found.step == 3
    a, b = batches(sizes=(4, 4, 2), other_sizes=(4, 4))
    assert finding(b, a).detail.startswith(
        "epoch 1 has 2 batches in tensorflow and 3 in torch: tensorflow"
    )


@pytest.mark.parametrize("turned", [False, True])
def test_a_dropped_last_batch_inside_an_accumulated_update(turned):
    """Both made as many updates; the last epoch's last update had one batch less on one side."""
    a, b = hand.pair()
    for side in (a, b):
        hand.with_batches(side, (4, 2), group=2, epochs=hand.STEPS)
        side.about["config"]["optimizer"]["accumulate"] = 2
    rows = {
        "lengths": 1,
        "samples": 1,
        "sequence": 1,
        "x": 1,
        "step": 1,
        "epoch": 1,
        "x_rows": 2,
        "y_rows": 2,
    }
    for name, fewer in rows.items():
        b.arrays[f"order/{name}"] = b.arrays[f"order/{name}"][:-fewer]
    found = finding(b, a) if turned else finding(a, b)
    counts = (
        "1 batches in tensorflow and 2 in torch"
        if turned
        else "2 batches in torch and 1 in tensorflow"
    )
    assert (
        found.detail == f"epoch 6 has {counts}: tensorflow lacks the batch of 2 samples at step 6"
    )


def test_batches_that_are_cut_otherwise():
    found = finding(*batches(sizes=(4, 4, 2), other_sizes=(4, 2, 4)))
    assert (found.step, found.detail) == (
        2,
        "the batch of step 2 holds other samples: 4 and 2 samples",
    )


def test_another_epoch_is_another_order():
    a, b = batches()
    b.arrays["order/epoch"] = b.arrays["order/epoch"].copy()
    b.arrays["order/epoch"][2] = 2
    found = finding(a, b)
    assert (found.step, found.phase) == (3, "batches")


def test_another_batch_before_another_cut_is_the_first_difference():
    def change(x, y):
        x[0] += 1

    found = finding(*batches(change, sizes=(4, 4, 2), other_sizes=(4, 4)))
    assert (found.step, found.phase) == (1, "other samples")


def test_the_step_of_a_batch_where_an_epochs_last_update_has_fewer():
    """Five batches in three updates of two, twice: the sixth batch is in the fourth update."""
    for batch, step in ((0, 1), (1, 1), (4, 3), (5, 4), (9, 6)):
        for recorded in (True, False):
            a, b = hand.pair()
            for side in (a, b):
                side.about["config"]["optimizer"]["accumulate"] = 2
                hand.with_batches(side, (2, 2, 2, 2, 1), group=2)
                if not recorded:  # records of before
                    hand.drop(side, "nothing")
                    del side.arrays["order/step"], side.arrays["order/epoch"]
            hand.changed(b, "order/samples", batch, np.uint64(50))
            assert finding(a, b).step == step


@pytest.mark.parametrize("rows", [0, 4])
def test_an_order_that_is_not_whole_is_not_judged(rows):
    a, b = hand.pair()
    b.arrays["order/sequence"] = b.arrays["order/sequence"][:rows]
    if not rows:
        b.arrays["order/samples"] = b.arrays["order/samples"][:0]
    assert judge(a, b).rungs[0].verdict == "ABSTAIN"
    assert f"{rows} batches" in judge(a, b).rungs[0].why


def short(steps=4, *, side="b"):
    a, b = hand.pair()
    hand.shortened(b if side == "b" else a, steps)
    return a, b


def test_steps_that_nothing_explains_fail():
    found = finding(*short())
    assert found.detail == "tensorflow made 4 of 6 steps, and nothing in its record says why"
    assert found.step == 4
    found = finding(*short(side="a"))
    assert "torch made 4 of 6 steps" in found.detail


def test_more_steps_than_were_asked_for_fail():
    a, b = hand.pair()
    hand.shortened(b, 3)
    for side in (a, b):
        side.about["config"]["train"]["epochs"] = 1
    assert finding(a, b).detail == "torch made 6 of 3 steps, and nothing in its record says why"


def test_other_lengths_where_nobody_knows_how_many_steps_were_asked_for_fail():
    a, b = short()
    for side in (a, b):
        del side.about["updates_per_epoch"]
    assert "tensorflow made 4 steps and torch 6, and nothing" in finding(a, b).detail


EXPLAINED = {
    "stopped": (lambda side: side.about.update(status="KILLED"), "was stopped after step 3"),
    "failed": (lambda side: side.about.update(status="FAILED"), "was stopped after step 3"),
    "early": (lambda side: hand.with_curve(side, [0.5], patience=1), "stopped early after step 3"),
    "diverged": (lambda side: hand.changed(side, "loss", -1, np.nan), "diverged at step 3"),
}  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("what", EXPLAINED)
def test_steps_that_a_record_explains_are_a_note_and_the_common_ones_are_judged(what, turned):
    change, text = EXPLAINED[what]
    a, b = short(3)
    change(b)
    if what == "early":
        a.about["config"]["train"] |= {"patience": 1, "monitor": "mse"}
    ladder = judge(b, a) if turned else judge(a, b)
    assert ladder.rungs[0].verdict == "PASS"
    (note,) = (note for note in ladder.notes if "steps: the" in note)
    assert f"tensorflow {text}" in note
    assert "the 3 that both made are judged" in note
    hand.changed(a, "grad/w", (1, 0, 0), 0.5)  # a common step
    assert judge(a, b, rtol=1e-3).finding.step == 2


def test_early_stopping_without_a_curve_explains_nothing():
    a, b = short()
    for side in (a, b):
        side.about["config"]["train"]["patience"] = 1
    assert "nothing in its record says why" in finding(a, b).detail


def test_what_only_the_longer_run_did_is_not_judged():
    a, b = short(3)
    b.about["status"] = "KILLED"
    hand.changed(a, "param/w", (5, 0, 0), 0.5)
    hand.changed(a, "order/samples", 4, np.uint64(50))
    assert judge(a, b).rung("trajectory").verdict == "PASS"
    assert judge(a, b).rungs[0].verdict == "PASS"


def test_an_accepted_order_accepts_nothing_but_the_order():
    def reordered(x, y):
        x[[0, 1]], y[[0, 1]] = x[[1, 0]], y[[1, 0]]

    def other_sample_later(x, y):
        reordered(x, y)
        y[10 + 8] += 1

    accept = {"order": "streamed"}
    ladder = judge(*batches(reordered), accept=accept)
    assert (ladder.rungs[0].verdict, ladder.rungs[0].by) == ("PASS", "accepted")
    for pair in (batches(other_sample_later), batches(reordered, other_sizes=(4, 3, 3))):
        ladder = judge(*pair, accept=accept)
        assert (ladder.verdict, ladder.finding.rung) == ("FAIL", "data")
