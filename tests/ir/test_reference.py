"""The formulas of compression beside plain Python on single numbers, in exact arithmetic where it matters."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

from graphpress.ir import reference, scales
from graphpress.ir.dtypes import DType

GENERATOR = torch.Generator().manual_seed(5)
DATA = torch.cat(
    [torch.randn(22, generator=GENERATOR) * 3, torch.tensor([0.0, -0.0, 0.75, -0.75, 1.25, 100, -100, 0.25])]
)


def even(number):
    """`number` rounded to the nearest integer, ties to even: what Python's `round` does, exactly."""
    return round(Fraction(number))


def divided(x, scale):
    """The float32 quotient."""
    return float(torch.tensor(x) / torch.tensor(scale))


# quantization


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT4, DType.INT2], ids=str)
@pytest.mark.parametrize("bounds", [(None, None), (1, None), (None, 1), (0, 1)])
@pytest.mark.parametrize("shift", ["none", "zero point", "minimum"])
def test_integers_are_quantized_and_back_as_numbers_are(dtype, bounds, shift):
    low = dtype.minimum if bounds[0] is None else bounds[0]
    high = dtype.maximum if bounds[1] is None else bounds[1]
    scale, zero, least = 0.5, 2.0, -1.25
    given = {"zero_point": torch.tensor(zero)} if shift == "zero point" else {}
    given |= {"minval": torch.tensor(least)} if shift == "minimum" else {}
    limits = {"quant_min": bounds[0], "quant_max": bounds[1]}
    expected, values, inside = [], [], []
    for x in DATA.tolist():
        code = {
            "none": even(divided(x, scale)),
            "zero point": even(divided(x, scale)) + zero,
            "minimum": even(divided(float(torch.tensor(x) - torch.tensor(least)), scale)) + low,
        }[shift]
        kept = min(max(code, low), high)
        expected.append(kept)
        inside.append(kept == code)
        values.append(
            (kept - low) * scale + least if shift == "minimum" else (kept - given.get("zero_point", 0)) * scale
        )
    codes = reference.quantize(DATA, torch.tensor(scale), **given, dtype=dtype, **limits)
    assert codes.tolist() == expected
    assert codes.dtype is dtype.torch_dtype
    back = reference.dequantize(codes, torch.tensor(scale), **given, dtype=dtype, quant_min=bounds[0])
    assert back.tolist() == [float(value) for value in values]
    fake = reference.fake_quantize(DATA, torch.tensor(scale), **given, dtype=dtype, **limits)
    assert torch.equal(fake, back)
    masked, mask = reference.fake_quantize_and_mask(DATA, torch.tensor(scale), **given, dtype=dtype, **limits)
    assert torch.equal(masked, back)
    assert mask.tolist() == inside
    assert (
        reference.fake_quantize(DATA.double(), torch.tensor(scale), **given, dtype=dtype, **limits).dtype
        is torch.float64
    )


@pytest.mark.parametrize("dtype", [DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2, DType.FLOAT4_E2M1FN], ids=str)
def test_floats_are_the_nearest_of_all_values_and_clipped(dtype):
    if dtype is DType.FLOAT4_E2M1FN:
        row = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    else:
        row = [
            v for v in torch.arange(128, dtype=torch.uint8).view(dtype.torch_dtype).float().tolist() if math.isfinite(v)
        ]
    halves = [(a + b) / 2 for a, b in itertools.pairwise(row)]
    numbers = [s * v for s in (1, -1) for v in [*row, *halves, row[-1] * 4]]
    data = torch.tensor(numbers) * 2
    expected = []
    for x in numbers:
        magnitude = min(abs(x), row[-1])
        distances = [abs(Fraction(value) - Fraction(magnitude)) for value in row]
        nearest = [i for i, distance in enumerate(distances) if distance == min(distances)]
        place = nearest[0] if len(nearest) == 1 else next(i for i in nearest if i % 2 == 0)
        expected.append(math.copysign(row[place] * 2, x))
    fake, mask = reference.fake_quantize_and_mask(data, torch.tensor(2.0), dtype=dtype)
    assert fake.tolist() == expected
    assert torch.equal(reference.fake_quantize(data, torch.tensor(2.0), dtype=dtype), fake)
    assert mask.tolist() == [abs(x) <= row[-1] for x in numbers]


def test_parameters_cover_blocks():
    scale = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    assert reference.repeat_blocks(scale, (4, 6)).tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[4, 4, 4, 8, 8, 8]] * 2
    assert reference.repeat_blocks(scale[:, :1], (2, 6)).tolist() == [[1], [4]]
    assert reference.repeat_blocks(torch.tensor(3.0), (2, 6)).shape == ()
    data = torch.arange(24.0).reshape(4, 6)
    codes = reference.quantize(data, scale, zero_point=scale, minval=None, dtype=DType.INT8)
    for row, column in itertools.product(range(4), range(6)):
        s = scale[row // 2, column // 3].item()
        assert codes[row, column] == even(data[row, column].item() / s) + s
    assert torch.equal(
        reference.dequantize(codes, scale, scale, dtype=DType.INT8),
        (codes - reference.repeat_blocks(scale, (4, 6))) * reference.repeat_blocks(scale, (4, 6)),
    )


def test_float4_codes_have_the_values_of_the_format():
    positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    found = reference.float4_values(torch.arange(16, dtype=torch.uint8)).tolist()
    assert found == positive + [-value for value in positive]
    assert math.copysign(1, found[8]) == -1


# ranges and parameters


def test_the_range_of_each_block():
    data = torch.randn(4, 6, generator=GENERATOR)
    low, high = reference.block_range(data, (2, 3))
    assert low.shape == (2, 2)
    for i, j in itertools.product(range(2), range(2)):
        block = data[2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
        assert (low[i, j], high[i, j]) == (block.min(), block.max())
    low, high = reference.block_range(data, (1, -1))
    assert (low.tolist(), high.tolist()) == (data.amin(1, True).tolist(), data.amax(1, True).tolist())
    low, high = reference.block_range(data.half(), ())
    assert (low.shape, low.dtype) == ((), torch.float32)
    assert (low, high) == (data.half().min(), data.half().max())
    assert [value.item() for value in reference.block_range(torch.zeros(0), ())] == [0, 0]


RANGES = [(-1.0, 3.0), (-3.0, 1.0), (0.5, 2.0), (-2.0, -0.5), (0.0, 0.0), (-4.0, 4.0)]


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8, DType.INT4], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("formulation", ["zp", "minval"])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_parameters_cover_the_range_and_zero_with_the_least_scale(dtype, symmetric, formulation, low, high):
    scale, zero_point, minval = reference.qparams_from_range(
        torch.tensor(low), torch.tensor(high), dtype=dtype, symmetric=symmetric, formulation=formulation
    )
    low, high = min(low, 0.0), max(high, 0.0)
    steps = dtype.maximum - dtype.minimum
    magnitude = max(-low, high)
    wanted = 2 * magnitude / steps if symmetric else (high - low) / steps
    if wanted == 0:
        assert scale == 1
    else:
        assert wanted <= scale.item() * (1 + 1e-7)
        assert scale.item() < wanted * (1 + 2**-15)
    if formulation == "minval":
        assert zero_point is None
        assert minval.item() == (-magnitude if symmetric else low)
    elif symmetric:
        assert minval is None
        assert (zero_point is None) == dtype.is_signed_integer
        assert zero_point is None or zero_point.item() == 128
    else:
        assert minval is None
        assert zero_point.item() == dtype.minimum - even(low / scale.item())
    # Zero is on the grid, and the ends are within a step.
    fake = reference.fake_quantize(torch.tensor([low, high, 0.0]), scale, zero_point, minval, dtype=dtype)
    assert (fake - torch.tensor([low, high, 0.0])).abs().max() <= scale * 1.01
    assert formulation == "minval" or fake[2] == 0


def test_code_bounds_and_scale_types_shape_the_parameters():
    one = torch.tensor(1.0)
    narrow, middle, _ = reference.qparams_from_range(
        -one, one, dtype=DType.UINT8, symmetric=True, quant_min=0, quant_max=4
    )
    assert (narrow.item(), middle.item()) == (0.5, 2.0)
    narrow, zero, _ = reference.qparams_from_range(
        -one, one, dtype=DType.INT8, symmetric=False, quant_min=-1, quant_max=3
    )
    assert (narrow.item(), zero.item()) == (0.5, 1.0)
    for symmetric, bits in ((True, 4), (False, 3)):
        scale, _, _ = reference.qparams_from_range(
            torch.tensor(-0.3), torch.tensor(0.7), dtype=DType.INT8, symmetric=symmetric, scale_dtype=DType.FLOAT16
        )
        assert scales.float16_scale_bits(DType.INT8, symmetric=symmetric) == bits
        assert math.frexp(scale.item())[0] * 2**bits % 1 == 0
    scale, zero, minval = reference.qparams_from_range(-one, 3 * one, dtype=DType.FLOAT8_E4M3FN, symmetric=True)
    assert scale.item() == pytest.approx(3 / 448, rel=2**-15)
    assert (zero, minval) == (None, None)
    scale, *_ = reference.qparams_from_range(
        -one, 3 * one, dtype=DType.FLOAT4_E2M1FN, symmetric=True, scale_dtype=DType.FLOAT8_E8M0FNU
    )
    assert scale.item() == 2.0 ** (1 - 2)


def test_scales_are_rounded_up_to_some_bits():
    for value, bits, expected in [
        (1.0, 16, 1.0),
        (1.0 + 2**-20, 16, 1.0 + 2**-15),
        (-(1.0 + 2**-20), 16, -(1.0 + 2**-15)),
        (1.25, 2, 1.5),
        (1.5, 2, 1.5),
        (1.75, 2, 2.0),
        (3.0, 1, 4.0),
    ]:
        assert scales.round_scale_up(torch.tensor(value), bits).item() == expected


def test_float16_holds_a_scale_when_it_holds_all_its_products():
    fits = lambda value: scales.fits_float16(torch.tensor([value, 1.0]), DType.INT8, symmetric=True)  # noqa: E731
    most = 65504 / 256
    assert [fits(most), fits(most * 1.01), fits(1.0)] == [True, False, True]
    least = 2.0 ** (4 - 1 - 24)
    assert [fits(least), fits(least * 0.99)] == [True, False]


@pytest.mark.parametrize(
    ("magnitude", "dtype", "exponent"),
    [
        (6.0, DType.FLOAT4_E2M1FN, 0),
        (7.9, DType.FLOAT4_E2M1FN, 0),
        (8.0, DType.FLOAT4_E2M1FN, 1),
        (3.9, DType.FLOAT4_E2M1FN, -1),
        (448.0, DType.FLOAT8_E4M3FN, 0),
        (1.0, DType.FLOAT8_E4M3FN, -8),
        (1e-38, DType.FLOAT8_E4M3FN, -126),
        (0.0, DType.FLOAT4_E2M1FN, -2),
    ],
)
def test_scales_of_microscaling_are_powers_of_two(magnitude, dtype, exponent):
    assert scales.power_of_two_scale(torch.tensor(magnitude), dtype).item() == 2.0**exponent


# tables and zeros


def test_a_table_is_looked_up_for_each_block():
    lut = torch.arange(2 * 1 * 4 * 1.0).reshape(2, 1, 4, 1)
    indices = torch.tensor([[0, 1, 2], [3, 2, 1], [0, 0, 3], [1, 1, 1]], dtype=torch.uint8)
    expected = [[float(4 * (row // 2) + int(index)) for index in line] for row, line in enumerate(indices)]
    assert reference.lut_to_dense(indices, lut).tolist() == expected


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_vectors_of_a_table_lie_along_their_axis(axis):
    lut = torch.arange(3 * 4 * 2.0).reshape(1, 3, 4, 2)
    indices = torch.tensor([[0, 1, 2], [3, 2, 1]], dtype=torch.uint8)
    found = reference.lut_to_dense(indices, lut, axis)
    for row, column, part in itertools.product(range(2), range(3), range(2)):
        place = (row, 2 * column + part) if axis % 2 else (2 * row + part, column)
        assert found[place] == lut[0, column, int(indices[row, column]), part]
    assert found.shape == ((2, 6) if axis % 2 else (4, 3))


def test_kept_elements_go_back_to_their_places():
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.uint8)
    dense = reference.sparse_to_dense(torch.tensor([1.0, 2.0, 3.0]), mask)
    assert dense.tolist() == [[1, 0, 2], [0, 3, 0]]
    assert dense.dtype is torch.float32


# batch norms and layers


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_convolution_and_its_norm_are_one_convolution(affine, biased):
    parts = torch.rand(5, 3, generator=GENERATOR, dtype=torch.float64) + 0.5
    mean, variance, weight, norm_bias, bias = parts
    factor = reference.batch_norm_factor(variance, weight if affine else None, 0.1)
    shift = reference.batch_norm_bias(factor, mean, norm_bias if affine else None, bias if biased else None)
    for c in range(3):
        gain = (weight[c] if affine else 1) / math.sqrt(variance[c] + 0.1)
        assert factor[c].item() == pytest.approx(float(gain), rel=1e-12)
        expected = ((bias[c] if biased else 0) - mean[c]) * gain + (norm_bias[c] if affine else 0)
        assert shift[c].item() == pytest.approx(float(expected), rel=1e-12)
    assert reference.batch_norm_factor(variance.half(), None, 0.1).dtype is torch.float32
    assert reference.batch_norm_bias(factor, mean.float(), None, None).dtype is torch.float32
    assert reference.batch_norm_bias(factor, mean, None, bias.half()).dtype is torch.float16


def test_a_shift_is_added_to_the_bias_if_there_is_one():
    shift = torch.tensor([1.0, 2.0])
    assert reference.shift_bias(shift, None) is shift
    moved = reference.shift_bias(shift, torch.tensor([0.5, 0.25], dtype=torch.float16))
    assert (moved.tolist(), moved.dtype) == ([1.5, 2.25], torch.float16)


def test_the_slices_of_an_axis_are_scaled():
    data, factor = torch.ones(2, 3), torch.tensor([1.0, 2.0, 4.0])
    assert reference.scale_axis(data, factor, 1).tolist() == [[1, 2, 4]] * 2
    assert reference.scale_axis(data, factor[:2], 0).tolist() == [[1] * 3, [2] * 3]
    assert reference.scale_axis(torch.ones(2, 1), factor, 1).tolist() == [[1, 2, 4]] * 2
    assert reference.scale_axis(data.half(), factor, 1).dtype is torch.float16
    third = reference.scale_axis(data, torch.tensor([1 / 3] * 3), 1, is_scale=True)
    assert torch.equal(third, scales.round_scale_up(torch.full((2, 3), 1 / 3)))
    assert third[0, 0].item() > 1 / 3


def test_the_outputs_of_each_group_are_scaled():
    weight = torch.ones(4, 3, 2)  # a transposed convolution: 2 groups of 2 inputs and 3 outputs
    factor = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = reference.scale_axis(weight, factor, 1, groups=2)
    assert found[:, :, 0].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]]
    assert reference.scale_axis(weight.half(), factor, 1, groups=2).dtype is torch.float16
    exact = reference.scale_axis(weight.half() / 3, torch.full((6,), 3.0), 1, groups=2)
    assert torch.equal(exact, ((weight.half() / 3).float() * 3).half())


def test_a_constant_shift_of_the_inputs_is_a_bias():
    weight = torch.arange(12.0).reshape(2, 3, 2)
    shift, bias = torch.tensor([1.0, 10.0, 100.0]), torch.tensor([0.5, 0.25])
    expected = [sum(weight[o, i, k].item() * shift[i].item() for i in range(3) for k in range(2)) for o in range(2)]
    assert reference.input_shift_bias(weight, shift, None).tolist() == expected
    assert reference.input_shift_bias(weight, shift, bias).tolist() == [expected[0] + 0.5, expected[1] + 0.25]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_is_rotated_by_a_matrix(axis):
    data, matrix = torch.randn(3, 3, 3), torch.randn(3, 3)
    expected = torch.stack(
        [sum(data.select(axis, i) * matrix[i, j] for i in range(3)) for j in range(3)],
        dim=axis,
    )
    torch.testing.assert_close(reference.rotate_axis(data, matrix, axis), expected)


def test_weights_of_16_bits_are_rotated_in_the_precision_of_the_matrix():
    data, matrix = torch.randn(4, 64).half(), torch.linalg.qr(torch.randn(64, 64)).Q
    found = reference.rotate_axis(data, matrix, 1)
    assert found.dtype is torch.float16
    assert torch.equal(found, (data.float() @ matrix).half())
