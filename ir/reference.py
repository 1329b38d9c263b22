"""The arithmetic of compression: one plain formula for each thing a compressed model does.

The interpreter, the modules of a prepared model and the lowered program all mean these formulas. They are evaluated in
float32 with a true division and rounding half to even, because that is what the runtimes do: a reciprocal, or float64,
differs at ties.

Shapes: `scale`, `zero_point` and `minval` are either 0-d (one for the tensor) or have the rank of the data, each extent
dividing the data's; an entry then covers the block of elements it divides the tensor into.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graphpress.ir.dtypes import DType

# Significant bits kept of a scale: a code of 8 bits times such a scale is exact in float32's 24.
SCALE_BITS = 16

# The non-negative values of float4 e2m1 (OCP Microscaling Formats v1.0, section 5.3.3), in the order of their codes.
FLOAT4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def repeat_blocks(parameters: Tensor, shape: Sequence[int]) -> Tensor:
    """`parameters` with each entry repeated over its block, so that it broadcasts against a tensor of `shape`."""
    if parameters.ndim == 0:
        return parameters
    for axis, (count, extent) in enumerate(zip(parameters.shape, shape, strict=True)):
        if count not in (1, extent):
            parameters = parameters.repeat_interleave(extent // count, axis)
    return parameters


def quantize(
    data: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    minval: Tensor | None = None,
    offset: Tensor | None = None,
    *,
    dtype: DType,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    """Codes of `data`: ``clip(round((x - minval) / s) + zp + offset)`` for integers, ``cast(clip(x / s))`` for floats.

    With `minval` the lowest code stands for it. `offset` (of the shape of `data`) moves each code by so many steps
    along the values that codes can have. float4 codes come one per element, as uint8.
    """
    if dtype.is_floating:
        values = data.float() / repeat_blocks(scale.float(), data.shape)
        codes = _float_codes(values.clamp_(dtype.minimum, dtype.maximum), dtype)
        if offset is None:
            return codes
        moved = codes_of_places(code_places(codes, dtype) + offset, dtype)
        return torch.where(offset == 0, codes.view(torch.uint8), moved.view(torch.uint8)).view(codes.dtype)
    codes = _integer_codes(data, scale, zero_point, minval, offset, dtype, quant_min, quant_max)
    return codes.to(dtype.torch_dtype)


def code_places(codes: Tensor, dtype: DType) -> Tensor:
    """The place of each code in the row of values that codes of `dtype` can have, as int32; zero is place 0.

    An integer is its own place. A float of sign and magnitude bits has the magnitude bits as its place, since floats
    are ordered as their bits are.
    """
    if not dtype.is_floating:
        return codes.to(torch.int32)
    bits = codes.view(torch.uint8).to(torch.int32)
    sign = 1 << (dtype.bits - 1)
    magnitude = bits & (sign - 1)
    return torch.where(bits >= sign, -magnitude, magnitude)


def codes_of_places(places: Tensor, dtype: DType) -> Tensor:
    """The codes at `places`; those beyond the ends of the row are at the ends."""
    if not dtype.is_floating:
        return places.clamp(int(dtype.minimum), int(dtype.maximum)).to(dtype.torch_dtype)
    largest = _float_codes(torch.tensor([dtype.maximum]), dtype).view(torch.uint8).item()
    magnitude = places.abs().clamp(max=int(largest))
    bits = torch.where(places < 0, magnitude + (1 << (dtype.bits - 1)), magnitude).to(torch.uint8)
    return bits if dtype is DType.FLOAT4_E2M1FN else bits.view(dtype.torch_dtype)


def _integer_codes(
    data: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    minval: Tensor | None,
    offset: Tensor | None,
    dtype: DType,
    quant_min: int | None,
    quant_max: int | None,
) -> Tensor:
    """Codes as whole numbers in float32."""
    low = dtype.minimum if quant_min is None else quant_min
    high = dtype.maximum if quant_max is None else quant_max
    return _unclipped_codes(data, scale, zero_point, minval, offset, low).clamp_(low, high)


def _unclipped_codes(
    data: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    minval: Tensor | None,
    offset: Tensor | None,
    low: float,
) -> Tensor:
    values = data.float()
    if minval is not None:
        values = values - repeat_blocks(minval.float(), data.shape)
    codes = (values / repeat_blocks(scale.float(), data.shape)).round_()
    if minval is not None:
        codes = codes.add_(low)
    elif zero_point is not None:
        codes = codes.add_(repeat_blocks(zero_point.float(), data.shape))
    if offset is not None:
        codes = codes.add_(offset)
    return codes


def dequantize(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    minval: Tensor | None = None,
    *,
    dtype: DType,
    quant_min: int | None = None,
) -> Tensor:
    """What `codes` of element type `dtype` stand for, in float32: ``(q - zp) * s``, or ``(q - qmin) * s + minval``."""
    values = float4_values(codes) if dtype is DType.FLOAT4_E2M1FN else codes.float()
    scale = repeat_blocks(scale.float(), codes.shape)
    if minval is not None:
        low = dtype.minimum if quant_min is None else quant_min
        return (values - low) * scale + repeat_blocks(minval.float(), codes.shape)
    if zero_point is not None:
        values = values - repeat_blocks(zero_point.float(), codes.shape)
    return values * scale


def fake_quantize(
    data: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    minval: Tensor | None = None,
    offset: Tensor | None = None,
    *,
    dtype: DType,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    """`data` as it is after being quantized and dequantized, in the dtype of `data`."""
    if dtype.is_floating:
        codes = quantize(data, scale, offset=offset, dtype=dtype)
    else:
        codes = _integer_codes(data, scale, zero_point, minval, offset, dtype, quant_min, quant_max)
    return dequantize(codes, scale, zero_point, minval, dtype=dtype, quant_min=quant_min).to(data.dtype)


def fake_quantize_and_mask(
    data: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    minval: Tensor | None = None,
    offset: Tensor | None = None,
    *,
    dtype: DType,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What `fake_quantize` gives, and a bool tensor of the same shape that is true where nothing was clipped.

    Integers are clipped after rounding, floats before.
    """
    if dtype.is_floating:
        inside = (data.float() / repeat_blocks(scale.float(), data.shape)).abs() <= dtype.maximum
        codes = quantize(data, scale, offset=offset, dtype=dtype)
    else:
        low = dtype.minimum if quant_min is None else quant_min
        high = dtype.maximum if quant_max is None else quant_max
        unclipped = _unclipped_codes(data, scale, zero_point, minval, offset, low)
        codes = unclipped.clamp(low, high)
        inside = codes == unclipped
    result = dequantize(codes, scale, zero_point, minval, dtype=dtype, quant_min=quant_min)
    return result.to(data.dtype), inside


def lut_to_dense(indices: Tensor, lut: Tensor, axis: int = 0) -> Tensor:
    """The tensor a lookup table stands for: ``out[p] = lut[block(p), indices[p], :]``.

    Args:
        indices: unsigned codes, any shape ``[a0..aK-1]``.
        lut: ``[b0..bK-1, 2^n, V]``, each ``b_i`` dividing ``a_i``: a table per block of indices.
        axis: where the V entries of a vector table are laid out; the result is V times as long there.
    """
    rank = indices.ndim
    entries, width = lut.shape[-2:]
    block_counts = lut.shape[:-2]
    table_of = torch.zeros((), dtype=torch.long)
    for position, count in enumerate(block_counts):
        extent = indices.shape[position]
        block = torch.arange(extent).div(extent // count, rounding_mode="floor")
        table_of = table_of * count + block.reshape([-1 if i == position else 1 for i in range(rank)])
    flat = lut.reshape(-1, width)
    picked = flat[(table_of * entries + indices.long()).reshape(-1)].reshape(*indices.shape, width)
    axis %= rank
    picked = picked.movedim(-1, axis + 1)
    return picked.reshape([n * width if i == axis else n for i, n in enumerate(indices.shape)])


def sparse_to_dense(values: Tensor, mask: Tensor) -> Tensor:
    """`values` put where `mask` is true, in row-major order, zero elsewhere."""
    dense = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return dense.masked_scatter(mask.bool(), values)


def block_range(data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The least and greatest element of each block.

    `block_size` has one extent per axis (-1: the whole axis), or is empty for one range over the whole tensor, 0-d.
    """
    values = data.detach().float()
    if not block_size:
        low, high = torch.aminmax(values) if values.numel() else (values.new_zeros(()), values.new_zeros(()))
        return low, high
    split: list[int] = []
    counts: list[int] = []
    for extent, size in zip(values.shape, block_size, strict=True):
        size = extent if size == -1 else size
        counts.append(extent // size if size else 1)
        split += [counts[-1], size]
    inner = tuple(range(1, len(split), 2))
    blocks = values.reshape(split)
    return torch.amin(blocks, inner).reshape(counts), torch.amax(blocks, inner).reshape(counts)


def qparams_from_range(
    low: Tensor,
    high: Tensor,
    *,
    dtype: DType,
    symmetric: bool,
    formulation: str = "zp",
    quant_min: int | None = None,
    quant_max: int | None = None,
    scale_dtype: DType = DType.FLOAT32,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Scale, zero point and minimum value (float32, of the shape of `low`) that cover the range ``[low, high]`` and
    zero.

    Symmetric: ``s = max(|low|, |high|) / ((qmax - qmin) / 2)``, the zero point in the middle of the codes (none for
    signed codes). Asymmetric: ``s = (high - low) / (qmax - qmin)``, ``zp = qmin - round(low / s)``. Minimum value: same
    scale, ``minval = low``. Floats: ``s = max(|low|, |high|) / maximum``. Scales are rounded up to `SCALE_BITS` bits,
    to be stored in float16 to `float16_scale_bits`; in float8_e8m0fnu they are powers of two (`power_of_two_scale`).
    """
    low = low.float().clamp(max=0.0)
    high = high.float().clamp(min=0.0)
    magnitude = torch.maximum(-low, high)
    if dtype.is_floating and scale_dtype is DType.FLOAT8_E8M0FNU:
        return power_of_two_scale(magnitude, dtype), None, None
    if dtype.is_floating:
        return round_scale_up(_positive(magnitude / dtype.maximum)), None, None
    code_low = int(dtype.minimum if quant_min is None else quant_min)
    code_high = int(dtype.maximum if quant_max is None else quant_max)
    steps = code_high - code_low
    bits = SCALE_BITS
    if scale_dtype is DType.FLOAT16:
        bits = float16_scale_bits(dtype, symmetric=symmetric)
    if formulation == "minval":
        if symmetric:
            low, high = -magnitude, magnitude
        return round_scale_up(_positive((high - low) / steps)), None, low
    if symmetric:
        scale = round_scale_up(_positive(magnitude / (steps / 2)), bits)
        middle = 0 if dtype.is_signed_integer else (code_low + code_high + 1) // 2
        return scale, torch.full_like(scale, middle) if middle else None, None
    scale = round_scale_up(_positive((high - low) / steps), bits)
    return scale, (code_low - (low / scale).round()).clamp(code_low, code_high), None


def round_scale_up(scale: Tensor, bits: int = SCALE_BITS) -> Tensor:
    """The float32 of `bits` significant bits nearest to `scale` on the side away from zero."""
    pattern = scale.detach().float().contiguous().view(torch.int32)
    drop = 24 - bits
    kept = (pattern + ((1 << drop) - 1)) & -(1 << drop)
    return kept.view(torch.float32)


def float16_scale_bits(dtype: DType, *, symmetric: bool) -> int:
    """The significant bits a scale may have so that its products with codes are exact in the 11 of float16.

    The codes are those of an integer `dtype`, less their zero point: up to half the codes where it is in the middle, up
    to all of them where it may be at the end.
    """
    return 11 - (dtype.bits - 1 if symmetric else dtype.bits)


def fits_float16(scale: Tensor, dtype: DType, *, symmetric: bool) -> bool:
    """True when float16 holds `scale`, rounded to `float16_scale_bits`, and its product with every code."""
    bits = float16_scale_bits(dtype, symmetric=symmetric)
    least, most = 2.0 ** (bits - 1 - 24), torch.finfo(torch.float16).max / 2**dtype.bits
    return bool((scale >= least).all() and (scale <= most).all())


def power_of_two_scale(magnitude: Tensor, dtype: DType) -> Tensor:
    """The scale ``2^(floor(log2(magnitude)) - emax)`` of a block, with the exponent emax of the greatest value of
    `dtype` (OCP Microscaling Formats v1.0, section 6.3): values of the upper part of an octave may be clipped.
    """
    greatest = math.frexp(dtype.maximum)[1] - 1
    exponent = torch.frexp(_positive(magnitude.float()))[1] - 1
    return torch.ldexp(torch.ones_like(magnitude, dtype=torch.float32), (exponent - greatest).clamp(-126, 127))


def batch_norm_factor(running_var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """What batch normalization multiplies channel c by: ``weight[c] / sqrt(var[c] + eps)`` (arXiv 1502.03167, 3.1)."""
    factor = torch.rsqrt(running_var.double() + eps)
    return (factor if weight is None else factor * weight.double()).to(_at_least_float32(running_var))


def batch_norm_bias(factor: Tensor, running_mean: Tensor, norm_bias: Tensor | None, bias: Tensor | None) -> Tensor:
    """The bias of a convolution and the batch norm after it as one: ``(bias - mean) * factor + norm_bias``."""
    shift = -running_mean.double() if bias is None else bias.double() - running_mean.double()
    shift = shift * factor.double()
    shift = shift if norm_bias is None else shift + norm_bias.double()
    return shift.to((bias if bias is not None else running_mean).dtype)


def shift_bias(shift: Tensor, bias: Tensor | None) -> Tensor:
    """``bias + shift``; a layer without a bias gets one."""
    return shift if bias is None else (bias.double() + shift.double()).to(bias.dtype)


def scale_axis(data: Tensor, factor: Tensor, axis: int, groups: int = 1, is_scale: bool = False) -> Tensor:
    """`data` with slice i along `axis` multiplied by an entry of `factor`.

    The axis has an entry for each factor, or one entry that all of them share (the result then has as many as there are
    factors). With `groups`, axis 0 of a transposed convolution's weight runs over groups and `axis` over the outputs of
    each group. `is_scale` says that `data` is the scale of codes, which keeps `SCALE_BITS` significant bits.
    """
    if is_scale:
        return round_scale_up(scale_axis(data, factor, axis, groups))
    if groups > 1:
        per_group = data.shape[0] // groups
        blocks = data.reshape(groups, per_group, *data.shape[1:])
        shape = [groups, 1] + [1] * (data.ndim - 1)
        shape[axis + 1] = -1
        return (blocks * factor.reshape(shape).to(_wider(data, factor))).reshape(data.shape).to(data.dtype)
    shape = [1] * data.ndim
    shape[axis] = -1
    return (data * factor.reshape(shape)).to(data.dtype)


def input_shift_bias(weight: Tensor, shift: Tensor, bias: Tensor | None) -> Tensor:
    """The bias that a constant `shift` of each input channel amounts to: ``bias[o] + sum over i, k of W[o, i, k]
    shift[i]``.
    """
    shape = [1] * weight.ndim
    shape[1] = -1
    moved = (weight.double() * shift.double().reshape(shape)).sum(tuple(range(1, weight.ndim)))
    return (moved if bias is None else moved + bias.double()).to(weight.dtype)


def float4_values(codes: Tensor) -> Tensor:
    """The values of float4 e2m1 codes (0 to 15; the eights have a minus sign)."""
    positive = torch.tensor(FLOAT4_VALUES)
    return torch.cat([positive, -positive])[codes.long()]


def _float_codes(values: Tensor, dtype: DType) -> Tensor:
    if dtype is not DType.FLOAT4_E2M1FN:
        return values.to(dtype.torch_dtype)
    grid = torch.tensor(FLOAT4_VALUES)
    middles = (grid[1:] + grid[:-1]) / 2
    magnitude = values.abs()
    code = torch.bucketize(magnitude, middles)  # a tie goes down ...
    tie = (magnitude == middles[code.clamp(max=len(middles) - 1)]) & (code < len(middles))
    code = torch.where(tie & (code % 2 == 1), code + 1, code)  # ... or up to the even code
    return (code + 8 * torch.signbit(values)).to(torch.uint8)


def _positive(scale: Tensor) -> Tensor:
    """A block of zeros has any scale; 1 keeps every later division finite."""
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale.clamp(torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max / 2)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _wider(data: Tensor, factor: Tensor) -> torch.dtype:
    return torch.promote_types(data.dtype, factor.dtype)
