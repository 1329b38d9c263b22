from __future__ import annotations

import pytest
import torch

from graphpress.passes.framework import CLOSE, EXACT, LOSSY

NAN, INF = float("nan"), float("inf")


def held(effect, before, after):
    error, allowed = effect.measure(before, after)
    return error <= allowed


def t(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (t(1.0, NAN, INF), t(1.0, NAN, INF), True),
        (t(1.0), t(1.0 + 2**-23), False),
        (t(0.0), t(-0.0), False),
        (t(NAN), t(1.0), False),
        (t(1.0), t(1.0, dtype=torch.float64), False),
        (t(1.0), t(1.0, 1.0), False),
        (t(3, dtype=torch.int32), t(3, dtype=torch.int32), True),
        (t(), t(), True),
    ],
)
def test_exact_means_the_same_bits(before, after, same):
    assert held(EXACT, before, after) is same


@pytest.mark.parametrize(
    ("before", "after", "close"),
    [
        (t(100.0, 1e-6), t(100.0005, 5e-4), True),  # relative to the largest element: sums cancel
        (t(100.0), t(100.01), False),
        (t(1.0, INF, NAN), t(1.0, INF, NAN), True),
        (t(1.0, INF), t(1.0, -INF), False),
        (t(1.0), t(NAN), False),
        (t(NAN), t(1.0), False),
        (t(1.0), t(1.0, dtype=torch.float64), False),
        (t(1.0, dtype=torch.float16), t(1.001, dtype=torch.float16), True),
        (t(1.0), t(1.001), False),
        (t(3, dtype=torch.int64), t(4, dtype=torch.int64), False),
    ],
)
def test_close_allows_rounding_relative_to_the_largest_element(before, after, close):
    assert held(CLOSE(rtol=1e-5, atol=1e-6), before, after) is close


@pytest.mark.parametrize(
    ("bound", "after", "ok"),
    [(0.1, t(1.05, 1.0), True), (0.01, t(1.05, 1.0), False), (None, t(9.0, 9.0), True), (None, t(1.0), False)],
)
def test_lossy_bounds_the_relative_root_mean_square(bound, after, ok):
    assert held(LOSSY(bound), t(1.0, 1.0), after) is ok


def test_lossy_may_change_the_type_but_not_make_infinities():
    assert held(LOSSY(0.01), t(1.0), t(1.0, dtype=torch.float16))
    assert not held(LOSSY(0.01), t(1e5), t(1e5, dtype=torch.float16))


@pytest.mark.parametrize("effect", [EXACT, CLOSE()], ids=str)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (t(1.0), t(1.0, 1.0)),
        (t(1.0, 1.0), t(1.0)),
        (t(1.0), t(1.0, dtype=torch.float16)),
        (t(1.0, dtype=torch.float16), t(1.0)),
    ],
)
def test_what_cannot_be_compared_is_infinitely_far(effect, before, after):
    assert effect.measure(before, after) == (INF, 0.0)


def test_measures_are_in_the_unit_of_the_effect():
    assert EXACT.measure(t(1.0, 2.0, 3.0), t(1.0, 5.0, 4.0)) == (2.0, 0.0)
    assert EXACT.measure(t(1 + 1j, NAN, dtype=torch.complex64), t(1 - 1j, NAN, dtype=torch.complex64)) == (1.0, 0.0)
    assert CLOSE(0.5, 0.25).measure(t(1.0, -4.0), t(1.5, -2.0)) == (2.0, 0.25 + 0.5 * 4)
    assert CLOSE(0.0, 1.0).measure(t(1.0, dtype=torch.float16), t(3.0, dtype=torch.float16)) == (2.0, 2.0**13)
    assert CLOSE(0.5, 0.25).measure(t(), t()) == (0.0, 0.25)
    assert CLOSE().measure(t(3, dtype=torch.int64), t(4, dtype=torch.int64)) == (1.0, 0.0)
    assert CLOSE(0.5, 0.25).measure(t(INF, 2.0), t(INF, 2.0)) == (0.0, 1.25)
    assert LOSSY(0.5).measure(t(3.0, 4.0), t(3.0, 9.0)) == (1.0, 0.5)
    assert LOSSY().measure(t(0.0, 0.0), t(3.0, 3.0)) == (3.0, INF)
    assert LOSSY(0.5).measure(t(), t()) == (0.0, 0.5)
    assert LOSSY(0.5).measure(t(INF), t(INF)) == (0.0, 0.5)


def test_effects_are_values_that_print_as_they_are_written():
    assert CLOSE(1e-5, 1e-6) == CLOSE()
    assert str(EXACT) == "EXACT"
    assert str(CLOSE(1e-4)) == "CLOSE(rtol=0.0001, atol=1e-06)"
    assert str(LOSSY(0.1, against="the table")) == "LOSSY(0.1, against='the table')"
    assert str(LOSSY()) == "LOSSY()"
    with pytest.raises(ValueError, match="rtol"):
        CLOSE(rtol=-1)
