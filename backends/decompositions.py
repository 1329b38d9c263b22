"""Decompositions of ops that converters lack or compute differently from torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

aten = torch.ops.aten


def _fmax(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the larger operand, or the other one if one is NaN."""
    return torch.where(a != a, b, torch.where(b != b, a, torch.maximum(a, b)))


def _fmin(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(a != a, b, torch.where(b != b, a, torch.minimum(a, b)))


def _hypot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Factor out the larger operand, whose square may overflow."""
    larger, smaller = torch.maximum(a.abs(), b.abs()), torch.minimum(a.abs(), b.abs())
    ratio = smaller / torch.where(larger == 0, torch.ones_like(larger), larger)
    return larger * torch.sqrt(1 + ratio * ratio)


def _logaddexp(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    distance = torch.where(a == b, torch.zeros_like(a), (a - b).abs())  # the distance of equal infinities is 0
    return torch.maximum(a, b) + torch.log1p(torch.exp(-distance))


def _histc(x: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    """Decompose ``aten.histc``: compare each element's bin with every bin, and count; elements outside have none."""
    flat = x.flatten()
    low, high = flat.new_full((), min), flat.new_full((), max)
    if min == max:
        low, high = flat.amin(), flat.amax()
        is_one_value = low == high
        low, high = low - is_one_value.to(x.dtype), high + is_one_value.to(x.dtype)
    places = ((flat - low) * bins / (high - low)).to(torch.int32).clamp(max=bins - 1)
    places = torch.where((flat >= low) & (flat <= high), places, torch.full_like(places, -1))
    found = places.unsqueeze(-1) == torch.arange(bins, dtype=torch.int32, device=x.device)
    return found.to(torch.float32).sum(0).to(x.dtype)


def _index_add(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, alpha: float = 1) -> Any:
    """Add slices by a ``scatter_add`` of their elements, since neither converter adds to an index that repeats."""
    if not x.dim():
        return NotImplemented
    shape = [-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]
    places = index.reshape(shape).expand(source.shape)
    return x.scatter_add(dim, places, source if alpha == 1 else source * alpha)


def _running_product(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """Multiply by what stands before, at distances that double (Hillis and Steele's scan)."""
    x = x if dtype is None else x.to(dtype)
    if not x.dim() or not isinstance(x.shape[dim], int):
        return NotImplemented
    distance, size = 1, x.shape[dim]
    while distance < size:
        further = x.narrow(dim, distance, size - distance) * x.narrow(dim, 0, size - distance)
        x = torch.cat([x.narrow(dim, 0, distance), further], dim)
        distance *= 2
    return x


def _median(x: torch.Tensor, dim: int, keepdim: bool = False) -> Any:
    """Take the lower middle of the elements in their order."""
    if not x.dim():
        return NotImplemented
    middle = (x.shape[dim] - 1) // 2
    values, places = torch.sort(x, dim)
    found = values.narrow(dim, middle, 1), places.narrow(dim, middle, 1)
    return found if keepdim else tuple(each.squeeze(dim) for each in found)


ELEMENTARY: Mapping[Any, Callable[..., Any]] = {
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    aten.histc.default: _histc,
    aten.hypot.default: _hypot,
    aten.logaddexp.default: _logaddexp,
    aten.index_add.default: _index_add,
    aten.isnan.default: lambda x: x != x,
    aten.median.dim: _median,
    aten.cumprod.default: _running_product,
    aten.remainder.Scalar: lambda x, divisor: aten.remainder.Tensor(x, x.new_full((), divisor)),
}


def _diagonal(x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """Decompose ``aten.diagonal``: elements ``start + i * (columns + 1)`` of both axes merged into the last."""
    rows_first = torch.movedim(x, (dim1, dim2), (-2, -1))
    rows, columns = rows_first.shape[-2:]
    length = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    start = offset if offset >= 0 else -offset * columns
    places = torch.arange(length, device=x.device) * (columns + 1) + start
    return rows_first.flatten(-2).index_select(-1, places)


def _unfold(x: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Decompose ``aten.unfold``: windows along an axis, with their elements along a new last axis."""
    axis = dimension % x.dim()
    count = (x.shape[axis] - size) // step + 1
    places = torch.arange(count, device=x.device).reshape(-1, 1) * step + torch.arange(size, device=x.device)
    windows = x.index_select(axis, places.flatten())
    return windows.reshape([*x.shape[:axis], count, size, *x.shape[axis + 1 :]]).movedim(axis + 1, -1)


def covered_scatter(op: Any, **reduction: str) -> Callable[..., Any]:
    """Return a decomposition of a scatter by `op`, which needs indices with the dims of the tensor along other axes.

    torch scatters into the part of the tensor that the indices cover, from the part of `src` that they cover. A number
    becomes a tensor.
    """

    def scatter(x: torch.Tensor, dim: int, index: torch.Tensor, src: Any, **given: str) -> Any:
        axes = [axis for axis in range(x.dim()) if axis != dim % x.dim() and index.shape[axis] != x.shape[axis]]
        is_number = not isinstance(src, torch.Tensor)
        if not (axes or is_number or reduction or src.shape != index.shape):
            return NotImplemented
        src = x.new_full(index.shape, src) if is_number else src
        for axis, size in enumerate(index.shape):
            src = src if src.shape[axis] == size else src.narrow(axis, 0, size)
        parts = [x]
        for axis in axes:
            parts.append(parts[-1].narrow(axis, 0, index.shape[axis]))
        made = op(parts.pop(), dim, index, src, **given, **reduction)
        for axis in reversed(axes):
            made = torch.slice_scatter(parts.pop(), made, axis, 0, index.shape[axis])
        return made

    return scatter


def _bilinear(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Decompose ``aten.bilinear``: ``a @ weight[o] @ b`` for each output `o`, as one product with the whole weight."""
    outputs, inner, other = weight.shape
    halves = torch.matmul(a, weight.permute(1, 0, 2).reshape(inner, outputs * other))
    result = (halves.reshape([*a.shape[:-1], outputs, other]) * b.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


REARRANGING: Mapping[Any, Callable[..., Any]] = {
    aten.bilinear.default: _bilinear,
    aten.diagonal.default: _diagonal,
    aten.unfold.default: _unfold,
    aten.scatter.src: covered_scatter(aten.scatter.src),
    aten.scatter.value: covered_scatter(aten.scatter.src),
    aten.scatter.reduce: covered_scatter(aten.scatter.reduce),
    aten.scatter.value_reduce: covered_scatter(aten.scatter.reduce),
    aten.scatter_add.default: covered_scatter(aten.scatter_add.default),
}


def variance(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> torch.Tensor:
    """Decompose ``aten.var.correction``: squared deviations over the element count minus `correction` (None: 1)."""
    axes = list(range(x.dim())) if not dim else [axis % x.dim() for axis in dim]
    count = math.prod(x.shape[axis] for axis in axes)
    centered = x - x.mean(axes, keepdim=True)
    return (centered * centered).sum(axes, keepdim=keepdim) / (count - (1 if correction is None else correction))


def deviation(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> torch.Tensor:
    """Decompose ``aten.std.correction``."""
    return variance(x, dim, correction=correction, keepdim=keepdim).sqrt()


def variance_and_mean(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decompose ``aten.var_mean.correction``."""
    axes = list(range(x.dim())) if not dim else list(dim)
    return variance(x, dim, correction=correction, keepdim=keepdim), x.mean(axes, keepdim=keepdim)


def deviation_and_mean(
    x: torch.Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decompose ``aten.std_mean.correction``."""
    var, mean = variance_and_mean(x, dim, correction=correction, keepdim=keepdim)
    return var.sqrt(), mean


def counted_mean_pool(axes: int) -> Callable[..., Any]:
    """Return a decomposition of ``aten.avg_pool{axes}d`` as a quotient of two plain pools.

    Applies if padding is not counted or windows exceed the edge; the divisor is the counted part of each window. Other
    forms are not decomposed.
    """
    pool = getattr(aten, f"avg_pool{axes}d").default

    def decomposed(
        x: torch.Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        kernel, pads = (_per_axis(values, axes) for values in (kernel_size, padding))
        steps = _per_axis(stride, axes) if stride else kernel
        if divisor_override is not None or not (ceil_mode or (any(pads) and not count_include_pad)):
            return NotImplemented
        sizes = x.shape[-axes:]
        if ceil_mode and not _are_known(sizes):
            return NotImplemented
        over = [_overhang(*each) if ceil_mode else 0 for each in zip(sizes, kernel, steps, pads, strict=True)]
        if not any(over) and (count_include_pad or not any(pads)):
            return pool(x, kernel, steps, pads)
        around = [pad for pad in reversed(pads) for _ in range(2)]
        behind = [pad for extra in reversed(over) for pad in (0, extra)]
        ones = x.new_ones([1] * (x.dim() - axes) + list(sizes))
        counts = F.pad(F.pad(ones, around, value=float(count_include_pad)), behind)
        values = F.pad(x, [pad + extra for pad, extra in zip(around, behind, strict=True)])
        return pool(values, kernel, steps) / pool(counts, kernel, steps)

    return decomposed


def _overhang(size: int, kernel: int, step: int, pad: int) -> int:
    """Return by how much the last window, starting in the input or the leading padding, exceeds the padded end."""
    padded = size + 2 * pad
    windows = -(-(padded - kernel) // step) + 1
    if (windows - 1) * step >= size + pad:
        windows -= 1
    return max(0, (windows - 1) * step + kernel - padded)


def nearest(axes: int, offset: float = 0.0) -> Callable[..., Any]:
    """Return a decomposition of ``aten.upsample_nearest{axes}d.vec`` into index ops, except for integer factors.

    Args:
        axes: the number of trailing axes to resize.
        offset: the position of the sample in a new element; 0.5 for torch's exact mode.
    """

    def decomposed(
        x: torch.Tensor, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None = None
    ) -> Any:
        sizes = x.shape[-axes:]
        if not _are_known([*sizes, *(output_size or ())]):
            return NotImplemented
        wanted = _resized(sizes, output_size, scale_factors)
        factors = scale_factors or [new / old for new, old in zip(wanted, sizes, strict=True)]
        if not offset and all(float(factor).is_integer() for factor in factors):
            return NotImplemented
        for axis, (old, new, factor) in enumerate(zip(sizes, wanted, factors, strict=True), x.dim() - axes):
            step = 1 / factor if scale_factors else old / new
            places = (torch.arange(new, dtype=torch.float32, device=x.device) + offset) * step
            x = x.index_select(axis, places.floor().to(torch.int64).clamp(0, old - 1))
        return x

    return decomposed


def antialiased_bilinear(
    x: torch.Tensor,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None = None,
) -> torch.Tensor:
    """Decompose ``aten._upsample_bilinear2d_aa.vec`` into products with weight matrices on both sides."""
    sizes = x.shape[-2:]
    wanted = _resized(sizes, output_size, scale_factors)
    rows, columns = (
        _triangle_weights(old, new, align_corners, None if scale_factors is None else scale_factors[at], x)
        for at, (old, new) in enumerate(zip(sizes, wanted, strict=True))
    )
    return torch.matmul(torch.matmul(rows, x), columns.transpose(0, 1))


def _triangle_weights(
    old: int, new: int, align_corners: bool, factor: float | None, like: torch.Tensor
) -> torch.Tensor:
    """Return triangle weights, new by old, as wide as a new or old element, whichever is wider."""
    if align_corners:
        step = (old - 1) / (new - 1) if new > 1 else 0.0
    else:
        step = old / new if factor is None else 1 / factor
    width = max(step, 1.0)
    centers = (torch.arange(new, dtype=torch.float32, device=like.device).reshape(-1, 1) + 0.5) * step
    places = torch.arange(old, dtype=torch.float32, device=like.device) + 0.5
    weights = (1 - ((places - centers) / width).abs()).clamp(min=0.0)
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


def _are_known(sizes: Sequence[Any]) -> bool:
    """Return False for data-dependent or dynamic sizes."""
    return all(isinstance(size, int) for size in sizes)


def _resized(sizes: Sequence[int], output_size: Sequence[int] | None, factors: Sequence[float] | None) -> list[int]:
    if output_size is not None:
        return list(output_size)
    return [math.floor(size * factor) for size, factor in zip(sizes, factors or (), strict=True)]


def _per_axis(values: int | Sequence[int], axes: int) -> list[int]:
    """Expand a single number to one per axis."""
    listed = [values] if isinstance(values, int) else list(values)
    return listed * axes if len(listed) == 1 else listed
