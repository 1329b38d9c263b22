"""Pools and resizes that are spelled out, beside torch's own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from graphpress.backends.decompositions import antialiased_bilinear, counted_mean_pool, nearest

aten = torch.ops.aten
IMAGE = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
SIZES = [(5, 13), (9, 3), (20, 7), (18, 24), (1, 1)]
FACTORS = [1.7, 0.6, 1.3, 0.34]


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1])
def test_means_of_what_counts(kernel, stride, padding):
    for ceil_mode, counted in itertools.product([False, True], [False, True]):
        settings = [kernel], [stride], [padding], ceil_mode, counted
        found = counted_mean_pool(2)(IMAGE, *settings)
        if found is NotImplemented:
            assert not ceil_mode
            assert counted or not padding
        else:
            torch.testing.assert_close(found, aten.avg_pool2d.default(IMAGE, *settings), rtol=1e-6, atol=1e-6)


def test_windows_that_all_count_alike_are_one_pool():
    for size, settings in [(8, (2, 2, 0, True, False)), (9, (3, 2, 1, True, True)), (8, (2, 2, 0, True))]:
        image = torch.randn(1, 2, size, size)
        kernel, stride, padding, *rest = settings
        given = [kernel], [stride], [padding], *rest
        with Counted() as counted:
            found = counted_mean_pool(2)(image, *given)
        torch.testing.assert_close(found, aten.avg_pool2d.default(image, *given))
        assert counted.names == ["avg_pool2d"]


class Counted(TorchDispatchMode):
    """Names the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().partition("::")[2].partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_a_divisor_of_its_own_is_left():
    assert counted_mean_pool(2)(IMAGE, [3], [1], [1], False, False, 4) is NotImplemented


@pytest.mark.parametrize(("name", "offset"), [("upsample_nearest2d", 0.0), ("_upsample_nearest_exact2d", 0.5)])
@pytest.mark.parametrize(("size", "factors"), [(size, None) for size in SIZES] + [(None, (f, f)) for f in FACTORS])
def test_nearest_neighbours_by_index(name, offset, size, factors):
    found = nearest(2, offset)(IMAGE, size, factors)
    if found is NotImplemented:
        assert (offset, size) == (0, (18, 24))
    else:
        assert torch.equal(found, getattr(aten, name).vec(IMAGE, size, factors))


@pytest.mark.parametrize(
    "settings",
    [(size, corners, None) for size in SIZES for corners in (False, True)] + [(None, False, (f, f)) for f in FACTORS],
)
def test_antialiased_resizes_by_matrices(settings):
    expected = aten._upsample_bilinear2d_aa.vec(IMAGE, *settings)
    torch.testing.assert_close(antialiased_bilinear(IMAGE, *settings), expected, rtol=1e-5, atol=1e-6)
