"""Element types, beside what torch and the formats' definitions say about them."""

from __future__ import annotations

import pytest
import torch

from graphpress.ir.dtypes import DType, DTypeError

INTEGERS = [dtype for dtype in DType if dtype.name.removeprefix("U").startswith("INT")]
IN_TORCH = [dtype for dtype in DType if dtype.bits >= 8]
# By the formats: OCP OFP8 and Microscaling v1.0, table 1 and sections 5.3.3 and 5.4.1.
EXTREMES = {
    DType.FLOAT8_E4M3FN: (-448.0, 448.0),
    DType.FLOAT8_E5M2: (-57344.0, 57344.0),
    DType.FLOAT8_E8M0FNU: (2.0**-127, 2.0**127),
    DType.FLOAT4_E2M1FN: (-6.0, 6.0),
    DType.FLOAT16: (-65504.0, 65504.0),
    DType.INT8: (-128, 127),
    DType.INT3: (-4, 3),
    DType.INT1: (-1, 0),
    DType.UINT8: (0, 255),
    DType.UINT1: (0, 1),
    DType.UINT64: (0, 2**64 - 1),
    DType.BOOL: (0, 1),
}


@pytest.mark.parametrize("dtype", DType, ids=str)
def test_a_type_is_found_by_each_of_its_names(dtype):
    for name in (dtype, dtype.value, dtype.long_name, f"torch.{dtype.long_name}"):
        assert DType.of(name) is dtype
    assert repr(dtype) == f"DType.{dtype.name}"


@pytest.mark.parametrize("dtype", IN_TORCH, ids=str)
def test_what_torch_has_is_as_torch_says(dtype):
    theirs = getattr(torch, dtype.long_name)
    assert DType.of(theirs) is dtype
    assert dtype.torch_dtype is theirs
    assert dtype.torch_scalar_type is theirs
    assert dtype.bits == 8 * theirs.itemsize
    assert dtype.is_floating == theirs.is_floating_point
    assert dtype.is_dense
    if dtype in INTEGERS:
        info = torch.iinfo(theirs)
        assert (dtype.minimum, dtype.maximum, dtype.bits) == (info.min, info.max, info.bits)
    elif theirs.is_floating_point and dtype is not DType.FLOAT8_E8M0FNU:
        assert (dtype.minimum, dtype.maximum) == (torch.finfo(theirs).min, torch.finfo(theirs).max)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_told_by_their_name(dtype):
    assert dtype.is_integer
    assert not dtype.is_floating
    assert dtype.is_signed_integer == dtype.name.startswith("INT")
    assert dtype.bits == int(dtype.name.removeprefix("U").removeprefix("INT"))
    assert dtype.maximum - dtype.minimum == 2**dtype.bits - 1


@pytest.mark.parametrize("dtype", [dtype for dtype in INTEGERS if dtype.bits < 8], ids=str)
def test_codes_below_a_byte_live_in_a_byte(dtype):
    assert dtype.torch_dtype is (torch.int8 if dtype.is_signed_integer else torch.uint8)
    assert dtype.torch_scalar_type is getattr(torch, dtype.long_name)
    assert not dtype.is_dense


def test_float4_codes_live_in_bytes_and_torch_packs_two():
    float4 = DType.FLOAT4_E2M1FN
    assert (float4.bits, float4.torch_dtype, float4.is_dense) == (4, torch.uint8, False)
    assert float4.torch_scalar_type is torch.float4_e2m1fn_x2
    assert float4.is_floating
    assert not float4.is_integer


@pytest.mark.parametrize(("dtype", "extremes"), EXTREMES.items(), ids=str)
def test_the_extreme_values_are_those_of_the_format(dtype, extremes):
    assert (dtype.minimum, dtype.maximum) == extremes


def test_neither_bool_nor_complex_is_an_integer_or_a_float():
    for dtype in (DType.BOOL, DType.COMPLEX64, DType.COMPLEX128):
        assert not dtype.is_integer
        assert not dtype.is_signed_integer
        assert not dtype.is_floating
    assert (DType.COMPLEX64.maximum, DType.COMPLEX64.bits) == (torch.finfo(torch.float32).max, 64)
    assert DType.BOOL.bits == 8


def test_short_names_of_torch_are_names_too():
    for name, dtype in {"float": "f32", "half": "f16", "double": "f64", "float4_e2m1": "f4e2m1fn"}.items():
        assert DType.of(name).value == dtype
    assert DType.of("float8_e4m3") is DType.FLOAT8_E4M3FN
    assert DType.of(torch.float4_e2m1fn_x2) is DType.FLOAT4_E2M1FN


@pytest.mark.parametrize("name", ["int5", "", 3, None, torch.quint8])
def test_other_names_are_refused(name):
    with pytest.raises(DTypeError, match="no element type"):
        DType.of(name)


def test_a_misspelt_name_is_answered_with_a_near_one():
    with pytest.raises(DTypeError, match=r"did you mean .*float32"):
        DType.of("float23")
