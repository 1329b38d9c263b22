"""Reference formulas of compression.

The interpreter, prepared models and the lowered programs implement these formulas. They are evaluated in float32 with
true division and rounding half to even, as the runtimes do; a reciprocal or float64 would differ at ties.

Shapes: `scale`, `zero_point` and `minval` are either 0-d (per tensor) or have the rank of the data, with dims that
divide those of the data; each entry then applies to one block of elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphpress.ir.dtypes import DType
from graphpress.ir.scales import SCALE_BITS, float16_scale_bits, positive, power_of_two_scale, round_scale_up, scale_in
from graphpress.ir.slabs import slabs

# The non-negative values of float4 e2m1 (OCP Microscaling Formats v1.0, section 5.3.3), in code order.
FLOAT4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def repeat_blocks(parameters: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat each entry of `parameters` over its block, to broadcast against a tensor of `shape`."""
    if parameters.ndim == 0:
        return parameters
    for axis, (count, dim) in enumerate(zip(parameters.shape, shape, strict=True)):
        if count not in (1, dim):
            parameters = parameters.repeat_interleave(dim // count, axis)
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
    """Quantize `data`: ``clip(round((x - minval) / s) + zp + offset)`` for integers, ``cast(clip(x / s))`` for floats.

    With `minval` the lowest code represents `minval`. `offset` (of the shape of `data`) moves each code by that many
    steps through the representable values. float4 codes are stored one per element, as uint8.
    """
    codes = [
        _codes(slab, s, z, m, o, dtype, quant_min, quant_max)
        for slab, (s, z, m, o) in slabs(data, scale, zero_point, minval, offset)
    ]
    return codes[0] if len(codes) == 1 else torch.cat(codes)


def _codes(
    data: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    minval: Tensor | None,
    offset: Tensor | None,
    dtype: DType,
    quant_min: int | None,
    quant_max: int | None,
) -> Tensor:
    """Quantize one slab."""
    if not dtype.is_floating:
        codes = _integer_codes(data, scale, zero_point, minval, offset, dtype, quant_min, quant_max)
        return codes.to(dtype.torch_dtype)
    values = data.float() / repeat_blocks(scale.float(), data.shape)
    codes = _float_codes(values.clamp_(dtype.minimum, dtype.maximum), dtype)
    if offset is None:
        return codes
    moved = codes_of_places(code_places(codes, dtype) + offset, dtype)
    return torch.where(offset == 0, codes.view(torch.uint8), moved.view(torch.uint8)).view(codes.dtype)


def code_places(codes: Tensor, dtype: DType) -> Tensor:
    """Return the rank of each code among the representable values of `dtype`, as int32; zero has rank 0.

    The rank of an integer is its value, that of a float its magnitude bits with the sign, since floats are ordered as
    their bits are.
    """
    if not dtype.is_floating:
        return codes.to(torch.int32)
    bits = codes.view(torch.uint8).to(torch.int32)
    sign = 1 << (dtype.bits - 1)
    magnitude = bits & (sign - 1)
    return torch.where(bits >= sign, -magnitude, magnitude)


def codes_of_places(places: Tensor, dtype: DType) -> Tensor:
    """Return the codes with the given ranks, clamped to the representable range."""
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
    """Quantize to integer codes, held in float32."""
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
    """Dequantize `codes` of element type `dtype` to float32: ``(q - zp) * s``, or ``(q - qmin) * s + minval``."""
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
    """Quantize and dequantize `data`, in the dtype of `data`."""
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
    """Return `fake_quantize` of `data`, and a bool mask of the same shape that is True where nothing was clipped.

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
    """Expand a palettized tensor: ``out[p] = lut[block(p), indices[p], :]``.

    Args:
        indices: unsigned codes of any shape ``[a0..aK-1]``.
        lut: lookup tables ``[b0..bK-1, 2^n, V]``, one per block of indices; each ``b_i`` divides ``a_i``.
        axis: the axis along which the V entries of a vector are laid out; its dim in the result is V times as long.
    """
    rank = indices.ndim
    entries, width = lut.shape[-2:]
    block_counts = lut.shape[:-2]
    table_of = torch.zeros((), dtype=torch.long)
    for position, count in enumerate(block_counts):
        dim = indices.shape[position]
        block = torch.arange(dim).div(dim // count, rounding_mode="floor")
        table_of = table_of * count + block.reshape([-1 if i == position else 1 for i in range(rank)])
    flat = lut.reshape(-1, width)
    picked = flat[(table_of * entries + indices.long()).reshape(-1)].reshape(*indices.shape, width)
    axis %= rank
    picked = picked.movedim(-1, axis + 1)
    return picked.reshape([n * width if i == axis else n for i, n in enumerate(indices.shape)])


def sparse_to_dense(values: Tensor, mask: Tensor) -> Tensor:
    """Scatter `values` to the True positions of `mask` in row-major order, with zeros elsewhere."""
    dense = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return dense.masked_scatter(mask.bool(), values)


def block_range(data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the minimum and maximum of each block.

    `block_size` has one dim per axis (-1 for the whole axis), or is empty for one 0-d range over the whole tensor.
    """
    values = data.detach()
    if not block_size:
        if not values.numel():
            return values.new_zeros((), dtype=torch.float32), values.new_zeros((), dtype=torch.float32)
        low, high = torch.aminmax(values)
        return low.float(), high.float()
    block_rows = block_size[0] if block_size[0] > 0 else values.shape[0]
    ranges = [_block_range(slab, block_size) for slab, _ in slabs(values, block_rows=max(block_rows, 1))]
    if len(ranges) == 1:
        return ranges[0]
    lows, highs = zip(*ranges, strict=True)
    return torch.cat(lows), torch.cat(highs)


def _block_range(data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the range of each block of one slab."""
    split: list[int] = []
    counts: list[int] = []
    for dim, size in zip(data.shape, block_size, strict=True):
        size = dim if size == -1 else size
        counts.append(dim // size if size else 1)
        split += [counts[-1], size]
    inner = tuple(range(1, len(split), 2))
    blocks = data.float().reshape(split)  # torch reduces blocks of 16 bits far slower
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
    data_dtype: DType = DType.FLOAT32,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return scale, zero point and minimum value that cover ``[low, high]`` and zero.

    All are float32 and of the shape of `low`; zero point and minimum value are None where not used.

    Symmetric: ``s = max(|low|, |high|) / ((qmax - qmin) / 2)``, with the zero point in the middle of the codes (none
    for signed codes). Asymmetric: ``s = (high - low) / (qmax - qmin)``, ``zp = qmin - round(low / s)``. Minimum value:
    same scale, ``minval = low``. Floats: ``s = max(|low|, |high|) / maximum``. Scales are rounded up to `SCALE_BITS`
    bits, for float16 storage to `float16_scale_bits`; float8_e8m0fnu scales are powers of two (`power_of_two_scale`).
    For data of 16 bits they are further rounded up to its dtype (`scale_in`), unless a minimum value is added, in the
    dtype of the scale, which would round twice.
    """
    low = low.float().clamp(max=0.0)
    high = high.float().clamp(min=0.0)
    magnitude = torch.maximum(-low, high)
    if scale_dtype is DType.FLOAT8_E8M0FNU:
        return power_of_two_scale(magnitude, dtype), None, None
    if dtype.is_floating:
        return scale_in(data_dtype, round_scale_up(positive(magnitude / dtype.maximum))), None, None
    code_low = int(dtype.minimum if quant_min is None else quant_min)
    code_high = int(dtype.maximum if quant_max is None else quant_max)
    steps = code_high - code_low
    bits = SCALE_BITS
    if scale_dtype is DType.FLOAT16:
        bits = float16_scale_bits(dtype, symmetric=symmetric)
    if formulation == "minval":
        if symmetric:
            low, high = -magnitude, magnitude
        return round_scale_up(positive((high - low) / steps)), None, low
    if symmetric:
        scale = scale_in(data_dtype, round_scale_up(positive(magnitude / (steps / 2)), bits))
        middle = 0 if dtype.is_signed_integer else (code_low + code_high + 1) // 2
        return scale, torch.full_like(scale, middle) if middle else None, None
    scale = scale_in(data_dtype, round_scale_up(positive((high - low) / steps), bits))
    return scale, (code_low - (low / scale).round()).clamp(code_low, code_high), None


def batch_norm_factor(running_var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Return the batch norm factor per channel: ``weight[c] / sqrt(var[c] + eps)`` (arXiv 1502.03167, 3.1)."""
    factor = torch.rsqrt(running_var.double() + eps)
    return (factor if weight is None else factor * weight.double()).to(_at_least_float32(running_var))


def batch_norm_bias(factor: Tensor, running_mean: Tensor, norm_bias: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return the bias of a convolution with a folded batch norm: ``(bias - mean) * factor + norm_bias``."""
    shift = -running_mean.double() if bias is None else bias.double() - running_mean.double()
    shift = shift * factor.double()
    shift = shift if norm_bias is None else shift + norm_bias.double()
    return shift.to((bias if bias is not None else running_mean).dtype)


def shift_bias(shift: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``bias + shift``, or `shift` for a layer without a bias."""
    return shift if bias is None else (bias.double() + shift.double()).to(bias.dtype)


def scale_axis(data: Tensor, factor: Tensor, axis: int, groups: int = 1, is_scale: bool = False) -> Tensor:
    """Multiply slice i along `axis` of `data` by ``factor[i]``.

    An axis of size one is expanded to the number of factors. With `groups`, axis 0 of a transposed convolution's weight
    runs over groups and `axis` over the outputs of each group. `is_scale` marks `data` as a quantization scale, which
    keeps `SCALE_BITS` significant bits, and those of its dtype.
    """
    if is_scale:
        scaled = round_scale_up(scale_axis(data, factor, axis, groups))
        return scaled.to(data.dtype) if data.dtype.itemsize == 2 else scaled
    if groups > 1:
        per_group = data.shape[0] // groups
        blocks = data.reshape(groups, per_group, *data.shape[1:])
        shape = [groups, 1] + [1] * (data.ndim - 1)
        shape[axis + 1] = -1
        return (blocks * factor.reshape(shape).to(_wider(data, factor))).reshape(data.shape).to(data.dtype)
    shape = [1] * data.ndim
    shape[axis] = -1
    return (data * factor.reshape(shape)).to(data.dtype)


def rotate_axis(data: Tensor, rotation: Tensor, axis: int) -> Tensor:
    """Multiply `axis` of `data` by a square matrix: ``sum over i of data[..., i, ...] * rotation[i, j]``."""
    dtype = _wider(data, rotation)
    moved = data.to(dtype).movedim(axis, -1) @ rotation.to(dtype)
    return moved.movedim(-1, axis).to(data.dtype).contiguous()


def input_shift_bias(weight: Tensor, shift: Tensor, bias: Tensor | None) -> Tensor:
    """Return the bias equivalent to a constant `shift` of each input channel.

    ``bias[o] + sum over i, k of W[o, i, k] * shift[i]``
    """
    shape = [1] * weight.ndim
    shape[1] = -1
    moved = (weight.double() * shift.double().reshape(shape)).sum(tuple(range(1, weight.ndim)))
    return (moved if bias is None else moved + bias.double()).to(weight.dtype)


def float4_values(codes: Tensor) -> Tensor:
    """Decode float4 e2m1 codes (0 to 15; bit 3 is the sign)."""
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


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _wider(data: Tensor, factor: Tensor) -> torch.dtype:
    return torch.promote_types(data.dtype, factor.dtype)
