"""Codes moved away from the nearest one, by the plain formulas."""

from __future__ import annotations

import pytest
import torch

from graphpress.ir import reference
from graphpress.ir.dtypes import DType

FLOATS = [DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2, DType.FLOAT4_E2M1FN]


def every_value(dtype: DType) -> torch.Tensor:
    """What codes of `dtype` stand for, in order, with one zero."""
    if not dtype.is_floating:
        return torch.arange(dtype.minimum, dtype.maximum + 1, dtype=torch.float32)
    if dtype is DType.FLOAT4_E2M1FN:
        positive = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    else:
        positive = torch.arange(128, dtype=torch.uint8).view(dtype.torch_dtype).float()
        positive = positive[positive.isfinite()]
    return torch.cat([-positive.flip(0)[:-1], positive])


@pytest.mark.parametrize("dtype", [*FLOATS, DType.INT4, DType.UINT2, DType.INT8], ids=str)
@pytest.mark.parametrize("offset", [-300, -3, -1, 0, 1, 2, 300])
def test_an_offset_moves_along_the_values_a_code_can_have(dtype, offset):
    values = every_value(dtype)
    moved = (torch.arange(len(values)) + offset).clamp(0, len(values) - 1)
    got = reference.fake_quantize(
        values * 0.5, torch.tensor(0.5), offset=torch.full(values.shape, offset, dtype=torch.int16), dtype=dtype
    )
    assert torch.equal(got, values[moved] * 0.5)


@pytest.mark.parametrize("dtype", [*FLOATS, DType.INT4, DType.UINT8], ids=str)
def test_codes_go_to_places_and_back(dtype):
    codes = reference.quantize(every_value(dtype), torch.tensor(1.0), dtype=dtype)
    places = reference.code_places(codes, dtype)
    assert torch.equal(places.diff(), torch.ones_like(places[1:]))
    assert torch.equal(reference.codes_of_places(places, dtype).view(torch.uint8), codes.view(torch.uint8))


def test_an_offset_of_nothing_keeps_the_sign_of_zero():
    codes = reference.quantize(
        torch.tensor([-0.0]), torch.tensor(1.0), offset=torch.zeros(1, dtype=torch.int8), dtype=DType.FLOAT8_E5M2
    )
    assert torch.signbit(codes.float())


def test_a_bounded_code_stays_within_its_bounds():
    how = {"dtype": DType.INT8, "quant_min": -127, "quant_max": 127}
    codes = reference.quantize(torch.tensor([-126.0]), torch.tensor(1.0), offset=torch.tensor([-5]), **how)
    assert codes.item() == -127
