"""Every legal way to quantize a tensor gives what the reference formulas and torchao give."""

from __future__ import annotations

import pytest
import torch
from torchao.prototype.mx_formats import mx_tensor
from torchao.prototype.mx_formats.kernels import f4_unpacked_to_f32, f32_to_f4_unpacked
from torchao.quantization import quant_primitives

from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.quantization import QuantizationSpec
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from tests.graphpress.quantization.test_quantization_matrix import ALL_INTEGERS, GRANULARITIES, SHAPE, legal_weights

torch.set_num_threads(1)

WEIGHT = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
CASES = list(legal_weights(ALL_INTEGERS))
FLOAT_MAX = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0, "float4_e2m1fn": 6.0}


def made(how, block):
    spec = QuantizationSpec(**how)
    return FakeQuantizeImplBase.__subclasses__()[0]("q", spec, block, is_state=True), spec


def of(granularity):
    found = [(name, how, block) for name, how, block in CASES if how["granularity"] == GRANULARITIES[granularity][0]]
    assert len(found) > 70
    return found


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_values_and_parameters_are_those_of_the_reference(granularity):
    for name, how, block in of(granularity):
        quantizer, spec = made(how, block)
        scale, zero_point, minval = quantizer.qparams(WEIGHT)
        bounds = {}
        if not spec.element_type.is_floating:
            bounds = {"quant_min": int(spec.quant_min), "quant_max": int(spec.quant_max)}
        found = reference.fake_quantize(WEIGHT, scale, zero_point, minval, dtype=spec.element_type, **bounds)
        assert torch.equal(quantizer(WEIGHT), found), name
        expected = reference.qparams_from_range(
            *reference.block_range(WEIGHT, block),
            dtype=spec.element_type,
            symmetric=how.get("qscheme", "symmetric") != "asymmetric",
            formulation=how.get("qformulation", "zp"),
            scale_dtype=DType.of(how.get("scale_dtype", "float32")),
            **bounds,
        )
        for ours, theirs in zip((scale, zero_point, minval), expected, strict=True):
            assert (ours is None) == (theirs is None), name
            assert ours is None or torch.equal(ours.reshape(theirs.shape), theirs), name


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_values_are_those_of_torchao_for_the_same_parameters(granularity):
    for name, how, block in of(granularity):
        quantizer, spec = made(how, block)
        scale = quantizer.qparams(WEIGHT)[0]
        differences = (quantizer(WEIGHT) - of_torchao(spec, block, *quantizer.qparams(WEIGHT))).abs()
        # it multiplies by the reciprocal of the scale, which decides ties differently
        step = scale.max() * FLOAT_MAX.get(how["dtype"], 4.0) / 4
        assert differences.max() <= 1.001 * step, name
        assert (differences > 1e-5 * scale.max()).float().mean() < 0.01, name


def of_torchao(spec, block, scale, zero_point, minval):
    """`WEIGHT` quantized and dequantized by torchao."""
    dtype = spec.element_type
    shape = tuple(extent // size for extent, size in zip(SHAPE, block, strict=True))
    scale = scale.reshape(shape)
    if dtype is DType.FLOAT4_E2M1FN:
        whole = reference.repeat_blocks(scale, SHAPE)
        return f4_unpacked_to_f32(f32_to_f4_unpacked(WEIGHT / whole)) * whole
    if dtype.is_floating:
        codes = quant_primitives._quantize_affine_float8(WEIGHT, scale, dtype.torch_dtype)
        return quant_primitives._dequantize_affine_float8(codes, scale)
    low, high = int(spec.quant_min), int(spec.quant_max)
    container = torch.int8 if dtype.is_signed_integer else torch.uint8
    if minval is not None:  # there, the value of the middle code stands for the least one's
        middle = (minval.reshape(shape) + scale * ((high + low + 1) / 2 - low)).flatten()
        of_float = block, scale.flatten(), middle
        codes = quant_primitives._quantize_affine_tinygemm(WEIGHT, *of_float, container, low, high)
        return quant_primitives._dequantize_affine_tinygemm(codes, *of_float, container, low, high)
    zero_point = torch.zeros_like(scale) if zero_point is None else zero_point
    parameters = block, scale.flatten(), zero_point.flatten().int()
    codes = quant_primitives.quantize_affine(WEIGHT, *parameters, container, low, high)
    return quant_primitives.dequantize_affine(codes, *parameters, container, low, high)


@pytest.mark.parametrize(
    ("dtype", "theirs"),
    [
        ("float4_e2m1fn", torch.float4_e2m1fn_x2),
        ("float8_e4m3fn", torch.float8_e4m3fn),
        ("float8_e5m2", torch.float8_e5m2),
    ],
)
def test_microscaling_formats_are_those_of_torchao_bit_for_bit(dtype, theirs):
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(4)) * torch.logspace(-6, 6, 16)[:, None]
    how = {"dtype": dtype, "scale_dtype": "float8_e8m0fnu", "granularity": {"type": "per_block", "block_size": 32}}
    quantizer, _ = made(how, (1, 32))
    scale, codes = mx_tensor.to_mx(weight, theirs, 32)
    assert torch.equal(quantizer.qparams(weight)[0], scale.float().reshape(16, 3))
    assert torch.equal(quantizer(weight), mx_tensor.to_dtype(codes, scale, theirs, 32, torch.float32))
