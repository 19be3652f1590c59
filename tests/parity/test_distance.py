from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.parity.distance import gap, trajectories, ulps
from pipeline.record.record import RunRecord

KINDS = [np.float32, np.float64]
BITS = {np.float32: np.uint32, np.float64: np.uint64}
INF = float("inf")


def array(kind, *values):
    return np.array(values, dtype=kind)


def any_float(kind, **limits):
    return st.floats(width=np.dtype(kind).itemsize * 8, **limits).map(kind)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_ulps_are_steps_of_nextafter(kind, data):
    """Walk from anywhere, through powers of two, subnormals and zero: so many steps, so many ulps."""
    centre = data.draw(st.sampled_from([0.0, 1.0, -1.0, 2.0, -0.5, np.finfo(kind).tiny, 1e-3])
                       | any_float(kind, allow_nan=False, allow_infinity=False))  # fmt: skip
    start, steps = kind(centre), data.draw(st.integers(0, 40))
    back = data.draw(st.integers(0, 40))
    with np.errstate(all="ignore"):
        for _ in range(back):
            start = np.nextafter(start, kind(-INF))
        end = start
        for _ in range(steps):
            end = np.nextafter(end, kind(INF))
    if np.isfinite(start) and np.isfinite(end):
        assert ulps(array(kind, start), array(kind, end)) == steps


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_ulps_are_a_metric(kind, data):
    """Symmetric, zero only between equals, and along the line they add up."""
    draw = any_float(kind, allow_nan=False)
    a, b, c = sorted(data.draw(draw) for _ in range(3))
    left, right, whole = (
        ulps(array(kind, p), array(kind, q))[0] for p, q in ((a, b), (b, c), (a, c))
    )
    assert ulps(array(kind, b), array(kind, a))[0] == left
    assert (left == 0) == (a == b)
    assert whole == pytest.approx(left + right, rel=4 * np.finfo(float).eps)


@pytest.mark.parametrize("kind", KINDS)
def test_ulps_of_special_values(kind):
    tiny, eps, big = np.finfo(kind).smallest_subnormal, np.finfo(kind).eps, np.finfo(kind).max
    for a, b, expected in [
        (0.0, -0.0, 0),
        (-tiny, tiny, 2),
        (1, 1 + eps, 1),
        (1, 1 - eps / 2, 1),
        (1, 2, 1 / eps),
        (big, INF, 1),
        (-INF, INF, 2 * ulps(array(kind, 0), array(kind, INF))[0]),
        (INF, INF, 0),
        (np.nan, np.nan, 0),
        (np.nan, 1, INF),
        (INF, np.nan, INF),
    ]:
        assert ulps(array(kind, a), array(kind, b)) == expected, (a, b)
        assert ulps(array(kind, b), array(kind, a)) == expected, (b, a)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_nans_are_alike_whatever_their_sign_and_payload(kind, data):
    bits = BITS[kind]
    quiet = array(kind, np.nan).view(bits)
    payload = data.draw(st.integers(0, 2**20))
    other = (quiet | bits(payload) | bits(1) << bits(bits(0).itemsize * 8 - 1)).view(kind)
    assert ulps(quiet.view(kind), other) == 0
    assert ulps(other, array(kind, data.draw(any_float(kind, allow_nan=False)))) == INF


def test_ulps_keep_the_shape_and_take_any_layout():
    a = np.arange(12.0).reshape(3, 4)
    assert ulps(a.T, a.T.copy()).shape == (4, 3)
    assert ulps(np.float64(1)[()].reshape(()), np.ones(())).shape == ()
    np.testing.assert_array_equal(ulps(a[::2], np.nextafter(a[::2], 99)), np.ones((2, 4)))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.ones(2, np.float32), np.ones(2)),
        (np.ones(2), np.ones(3)),
        (np.ones(2, int), np.ones(2, int)),
        (np.ones(2, np.float16), np.ones(2, np.float16)),
    ],
)
def test_ulps_refuse_what_cannot_be_compared(a, b):
    with pytest.raises(ValueError, match="cannot count ulps"):
        ulps(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_gap_finds_the_first_bit_and_the_largest_differences(kind):
    a = np.ones((6, 2, 2), kind)
    b = a.copy()
    b[2, 0, 1] = np.nextafter(kind(1), kind(2))
    b[3, 1, 0] = 1.5
    a[4, 1, 1], b[4, 1, 1] = 2.0**10, 2.0**10 + 1
    found = gap("w", a, b)
    assert (found.name, found.first, found.step) == ("w", 2, 3)
    assert found.absolute == 1.0
    assert found.relative == 0.5 / 1.5
    assert found.ulp == 0.5 / np.finfo(kind).eps
    mirrored = gap("w", b, a)
    assert mirrored == found


@pytest.mark.parametrize("kind", KINDS)
def test_gap_of_equals_is_nothing(kind):
    a = array(kind, 0.0, 1.0, np.nan, INF)
    found = gap("b", a, a.copy())
    assert (found.first, found.relative, found.ulp, found.step) == (None, 0.0, 0.0, 0)
    zeros = gap("b", np.zeros(3, kind), np.zeros(3, kind))
    assert (zeros.absolute, zeros.relative) == (0.0, 0.0)


def test_gap_sees_the_sign_of_zero_as_a_bit_but_as_no_distance():
    found = gap("b", np.array([1.0, 0.0]), np.array([1.0, -0.0]))
    assert (found.first, found.absolute, found.ulp) == (1, 0.0, 0.0)


def test_gap_does_not_swallow_a_nan():
    found = gap("b", np.array([1.0, 2.0, 3.0]), np.array([1.0, np.nan, 3.0]))
    assert (found.first, found.step, found.ulp) == (1, 1, INF)
    assert not found.absolute <= 1e300
    assert not found.relative <= 1e300


def record(**arrays):
    return RunRecord(about={}, arrays={f"param/{name}": value for name, value in arrays.items()})


def test_trajectories_measure_every_parameter():
    a, b = np.ones((4, 2)), np.ones(4)
    gaps = trajectories(record(w=a, b=b), record(b=b, w=a + np.array([0, 1e-3])))
    assert {g.name: g.first for g in gaps} == {"w": 0, "b": None}


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ({}, {"w": np.ones(3)}, "no parameters"),
        ({"w": np.ones(3)}, {"w": np.ones(3), "b": np.ones(3)}, "other parameters"),
        ({"w": np.ones(3)}, {"w": np.ones(4)}, r"\(3,\).*\(4,\)"),
        ({"w": np.ones((3, 2))}, {"w": np.ones((3, 1))}, r"\(3, 2\).*\(3, 1\)"),
        ({"w": np.ones(3)}, {"w": np.ones(3, np.float32)}, "float64.*float32"),
    ],
)
def test_records_that_do_not_match_are_refused(left, right, message):
    with pytest.raises(ValueError, match=message):
        trajectories(record(**left), record(**right))
