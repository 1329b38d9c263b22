"""Scales beside values of 16 bits: in their dtype, never too small, and float32 where that dtype cannot hold them."""

import numpy as np
import pytest
import torch

from graphpress.ir import scales
from graphpress.ir.dtypes import DType

HALVES = [DType.FLOAT16, DType.BFLOAT16]


def every_finite(dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype.torch_dtype)
    return values[values.isfinite()].float()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_rounded_scale_is_the_least_value_of_the_dtype_that_is_not_smaller(dtype):
    drawn = torch.exp(torch.empty(1000).uniform_(-9, 11, generator=torch.Generator().manual_seed(0)))
    held = np.sort(every_finite(dtype).numpy())
    expected = held[np.searchsorted(held, drawn.numpy(), side="left")]
    rounded = scales.scale_in(dtype, drawn)
    assert np.array_equal(rounded.numpy(), expected)
    stored = scales.stored_in(dtype, rounded)
    assert stored.dtype is dtype.torch_dtype
    assert torch.equal(stored.float(), rounded)


@pytest.mark.parametrize("value", [2.0**-15, 3e-8, 7e4], ids=["subnormal", "zero", "infinite"])
def test_scales_that_float16_does_not_hold_in_full_remain_float32(value):
    both = torch.tensor([0.1, value])
    assert torch.equal(scales.scale_in(DType.FLOAT16, both), both)
    assert scales.stored_in(DType.FLOAT16, torch.tensor([0.125, value])).dtype is torch.float32


def test_scales_of_float32_are_not_changed():
    drawn = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert scales.scale_in(DType.FLOAT32, drawn) is drawn
    assert scales.stored_in(DType.FLOAT32, torch.tensor(0.5)).dtype is torch.float32
