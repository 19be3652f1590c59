"""The words: values, factors, growth, speed, machines; nothing is said that was not measured."""

from __future__ import annotations

import json

import hand
import numpy as np
import pytest
from hand import GRAD_W, LOSS, TEST

from pipeline.parity.growth import growth
from pipeline.parity.ladder import judge
from pipeline.parity.places import describe_place, find_ratio
from pipeline.parity.tell import tell_times


def test_equal_runs_and_rounding_are_told_apart():
    assert judge(*hand.pair()).sentence() == "The runs are the same in every bit that was compared."
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    found.arrays[f"free/b/{GRAD_W.key}"][3] = 3e-4 * found.arrays[f"size/b/{GRAD_W.key}"][3]
    assert judge(a, b, evidence=found).sentence() == (
        "The runs differ by rounding alone: no step does anything else. From equal states no quantity "
        "of any step is more than 0.0003 of its size apart (gradient of w at step 4)."
    )


def test_without_evidence_it_says_what_cannot_be_judged():
    a, b = hand.other_bits()
    assert judge(a, b, hint="; run the probe").sentence() == (
        "forward cannot be judged: other bits, and no evidence; run the probe."
    )


@pytest.mark.parametrize("ratio", [0.5, 1024.0, 1.001, -1.0])
@pytest.mark.parametrize("turned", [False, True])
def test_a_constant_ratio_is_told(ratio, turned):
    a, b = hand.pair()
    b.arrays["grad/w"] = (a.arrays["grad/w"] * np.float64(ratio)).astype(np.float32)
    ladder = judge(b, a, rtol=1e-4) if turned else judge(a, b, rtol=1e-4)
    wanted = 1 / ratio if turned else ratio
    assert ladder.finding.ratio == pytest.approx(wanted, rel=1e-6)
    names = ("torch", "tensorflow") if turned else ("tensorflow", "torch")
    assert f"times as large in {names[0]} as in {names[1]}" in ladder.sentence()


def test_no_ratio_is_told_where_one_does_not_explain_all():
    rng = np.random.default_rng(0)
    a = rng.normal(size=8)
    assert find_ratio(a, a) is None
    assert find_ratio(a, 2 * a) == pytest.approx(2)
    assert find_ratio(a, 2 * a + 1e-3 * rng.normal(size=8)) is None
    assert find_ratio(a, 0 * a) is None
    assert find_ratio(0 * a, a) is None
    assert find_ratio(a, np.where(np.arange(8) == 3, np.nan, 2 * a)) is None
    assert find_ratio(a * 1e200, a * 2e200) is None  # its square is not finite


def test_the_ratio_of_an_update_is_that_of_the_update_not_of_the_weights():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "apart", hand.W, 3, 1e-3)
    begin = a.arrays["param/w"][2].astype(np.float64)
    moved = 1e-3 * np.arange(1, 7.0).reshape(3, 2)
    ends = {"start": begin, "a64": begin + moved, "b64": begin + 0.5 * moved}
    ends |= {"a32": ends["a64"].astype(np.float32), "b32": ends["b64"].astype(np.float32)}
    for name, values in ends.items():
        found.arrays[f"vector/{name}/a/3/{hand.W.key}"] = values
    finding = judge(a, b, evidence=found).finding
    assert finding.ratio == pytest.approx(0.5, rel=1e-6)
    assert finding.index == (2, 1)
    assert finding.a == ends["a32"][2, 1]
    assert finding.b == ends["b32"][2, 1]


def test_no_ulps_across_signs_or_of_what_is_not_finite():
    one = np.float32([1.0, 2.0])
    assert describe_place(one, np.nextafter(one, np.float32(3)))["ulp"] == 1
    for other in ([-1.0, 2.0], [np.nan, 2.0], [np.inf, 2.0]):
        assert describe_place(one, np.float32(other))["ulp"] is None
    assert describe_place(np.float32([1e-30]), np.float32([-1e-30]))["ulp"] is None
    a, b = hand.pair()
    b.arrays["grad/w"] = -b.arrays["grad/w"]
    assert "ulp" not in judge(a, b, rtol=1e-3).sentence()


def test_a_place_beyond_a_tolerance_is_the_element_that_leaves_it():
    one, other = np.array([1000.0, 1e-3]), np.array([1000.5, 1.1e-3])
    assert describe_place(one, other)["index"] == (0,)
    assert describe_place(one, other, tolerance=(1e-3, 0.0))["index"] == (1,)
    assert describe_place(one, np.array([1000.0, np.nan]), tolerance=(1.0, 0.0))["index"] == (1,)


def test_a_distance_that_is_not_zero_is_never_told_as_zero():
    assert tell_times(0.0, 0.0) == "0"
    assert tell_times(1e-9, 1e-30) == "less than 0.01"
    assert tell_times(0.5, 1.0) == "0.5"
    a, b = hand.other_bits()
    for apart, words in ((1e-30, "less than 0.01 of the bound"), (0.0, "0 of the bound")):
        found = hand.evidence(a, b, own_a=0.0, own_b=0.0, apart=apart)
        assert judge(a, b, evidence=found).rung("trajectory").why.startswith(words)


def growing(a, b):
    for k in range(1, hand.STEPS + 1):
        rows = b.arrays["param/w"]
        rows[k] = a.arrays["param/w"][k] * np.float32(1 + 1e-5 * 2.0**k)
    b.arrays["last/w"] = b.arrays["param/w"][-1]


def test_growth_never_says_rounding_in_a_fail(monkeypatch):
    monkeypatch.setattr("pipeline.parity.growth._FEW", 4)
    a, b = hand.pair()
    growing(a, b)
    found = hand.evidence(a, b)
    ladder = judge(a, b, evidence=found)
    assert (ladder.verdict, ladder.growth.text.split(":")[0]) == ("PASS", "exponential (chaos)")
    hand.put(found, "apart", LOSS, 5, 1e-3)
    ladder = judge(a, b, evidence=found)
    assert (ladder.verdict, ladder.growth.text.split(":")[0]) == ("FAIL", "exponential")
    line = 1e-8 * np.arange(1, 50.0)
    assert growth(line, {}).text.startswith("linear, as rounding adds up")
    assert growth(line, {}, rounding=False).text.startswith("linear:")


def timed(**second):
    a, b = hand.pair()
    for side, step in ((a, 100.0), (b, 250.0)):
        side.about |= {"time": {"step_us": step}, "device": "cpu", "versions": {},
                       "environment": {"cpu": "one", "versions": "1"}}  # fmt: skip
    b.about |= second
    return a, b


def test_speed_is_told_of_a_pass():
    assert judge(*timed()).facts["speed"] == (
        "A step takes 100 µs in torch and 250 µs in tensorflow, 2.5 times as long (medians of 6 steps)"
    )
    a, b = timed(versions={"onednn": "1"})
    assert judge(b, a).facts["speed"].endswith("; tensorflow has onednn 1)")


@pytest.mark.parametrize("verdict", ["FAIL", "ABSTAIN", "ERROR"])
def test_speed_is_told_of_a_pass_alone(verdict):
    a, b = timed()
    if verdict == "FAIL":
        hand.changed(b, "param/w", (0, 0, 0), 0.5)
    elif verdict == "ABSTAIN":
        hand.changed(b, "param/w", (3, 0, 0), 0.5)
    else:
        b.about["config"]["model"]["name"] = "dense"
    ladder = judge(a, b)
    assert (ladder.verdict, "speed" in ladder.facts) == (verdict, False)


MACHINES = {
    "device": ({"device": "cuda"}, "another device: cpu and cuda"),
    "machine": ({"environment": {"cpu": "two", "versions": "1"}}, "another machine: one and two"),
    "versions": ({"environment": {"cpu": "one", "versions": "2"}}, "another versions: 1 and 2"),
}


@pytest.mark.parametrize("what", MACHINES)
def test_another_machine_is_a_note_and_no_times_are_told(what):
    second, note = MACHINES[what]
    ladder = judge(*timed(**second))
    assert (ladder.verdict, "speed" in ladder.facts) == ("PASS", False)
    assert ladder.notes[0] == f"{note}; times are not comparable"


@pytest.mark.parametrize(("key", "values", "shown"), [
    ("threads", (1, 2), "1 and 2"), ("deterministic", (True, False), "true and false"),
    ("execution", ("eager", "graph"), "eager and graph")])  # fmt: skip
def test_other_settings_of_the_machine_are_notes_and_judged_all_the_same(key, values, shown):
    a, b = timed()
    for side, value in zip((a, b), values, strict=True):
        side.about["config"]["backend"][key] = value
    ladder = judge(a, b)
    assert (ladder.verdict, "speed" in ladder.facts) == ("PASS", False)
    assert f"backend.{key} is {shown}; times are not comparable" in ladder.notes


def test_two_runs_of_one_backend_are_told_apart_by_their_place():
    a, b = hand.record(), hand.record()
    hand.changed(b, "grad/w", (2, 0, 0), 0.5)
    sentence = judge(a, b, rtol=1e-3).sentence()
    assert "torch (a)" in sentence
    assert "torch (b)" in sentence


def test_a_finding_of_data_or_start_tells_no_effects():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "apart", GRAD_W, 2, 1e-3)
    hand.changed(b, "param/b", (0, 1), 0.5)
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, len(ladder.findings)) == ("start", 2)
    assert "Another finding" not in ladder.sentence()
    assert ladder.sentence().startswith(
        "The two do not start from the same parameters: init at step 0: b[1]"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_everything_goes_into_json(value):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    found.arrays[f"apart/a/{GRAD_W.key}"][3] = value
    found.arrays[f"own_b/a/{TEST.key}"][0] = np.nan
    found.arrays |= {"error/a": np.full(3, value), "error/b": np.zeros(3)}
    ladder = judge(a, b, evidence=found, accept={"loss": "known"})
    about = json.loads(json.dumps(ladder.to_dict(), allow_nan=False))
    assert (about["verdict"], about["kind"], about["format"]) == ("FAIL", "meaning", 2)
    assert about["errors"]["a"] == [str(value)] * 3
    assert [rung["name"] for rung in about["rungs"]] == [rung.name for rung in ladder.rungs]
    assert about["finding"]["step"] == ladder.finding.step == 4
    assert "suspects" not in about
