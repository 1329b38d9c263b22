"""Decompositions of ATen ops that coremltools lacks or computes differently from torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument

from graphpress.backends import exporting
from graphpress.backends.coreml.dependency import require
from graphpress.backends.coreml.float16 import NARROW, WIDE, in_float32
from graphpress.backends.decompositions import (
    ELEMENTARY,
    REARRANGING,
    antialiased_bilinear,
    deviation,
    deviation_and_mean,
    nearest,
    variance,
    variance_and_mean,
)

aten = torch.ops.aten


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Return a copy of `program` in ops that coremltools computes as torch does.

    Raises:
        ConversionError: if an unsupported operator is left; names its source locations.
    """
    lowerings = require("coremltools.converters.mil.frontend.torch.torch_op_registry")._TORCH_OPS_REGISTRY
    table = {**NARROW, **_made_of_others(), **_SPELLED_OUT}
    table |= {op: in_float32(op, table.get(op)) for op in WIDE}
    program = exporting.decompose(program, table, lambda op: lowerings.get_func(op.name()) is not None, "coremltools")
    _rename_ambiguous(program)
    return program


def _rename_ambiguous(program: ExportedProgram) -> None:
    """Rename values with the name of a text argument or of a state, since coremltools knows all three by name alone.

    It would take a rounding mode for the value, or the value for the state: a mean that updates a buffer ``mean``.
    """
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    taken = {each for node in nodes for each in (*node.args, *node.kwargs.values()) if isinstance(each, str)}
    taken |= set(program.graph_signature.buffers_to_mutate.values())
    renamed = {}
    for node in nodes:
        if node.name in taken:
            before = node.name
            node._rename(f"{before}_value")
            renamed[before] = node.name
    specs = program.graph_signature.output_specs
    for at, spec in enumerate(specs):
        if spec.arg.name in renamed:
            specs[at] = dataclasses.replace(spec, arg=TensorArgument(renamed[spec.arg.name]))


def _gelu(x: torch.Tensor, approximate: str = "none") -> Any:
    """Expand the tanh approximation, which coremltools ignores in exported programs."""
    if approximate == "none":
        return NotImplemented
    return x * (0.5 * (torch.tanh(((0.044715 * x**3) + x) * (2 / math.pi) ** 0.5) + 1))


def _reciprocal(x: torch.Tensor) -> Any:
    """Compute the reciprocal as a quotient, since the inverse op of ML programs adds 1e-4 to its operand."""
    return torch.full((), 1.0, dtype=x.dtype) / x if x.is_floating_point() else NotImplemented


def _trunc(x: torch.Tensor) -> Any:
    return x.sign() * x.abs().floor() if x.is_floating_point() else NotImplemented


def _matmul(a: torch.Tensor, b: torch.Tensor) -> Any:
    """Multiply with a vector as a matrix of one column."""
    return torch.matmul(a, b.unsqueeze(1)).squeeze(-1) if a.dim() > 1 and b.dim() == 1 else NotImplemented


def _logical(logical: Any) -> Callable[..., Any]:
    """Decompose to the logical op for bool operands, which coremltools implements separately."""

    def combined(a: torch.Tensor, b: torch.Tensor) -> Any:
        return logical(a, b) if a.dtype == b.dtype == torch.bool else NotImplemented

    return combined


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Repeat key and value heads that several query heads share."""
    if not enable_gqa:
        return NotImplemented
    shared = query.shape[-3] // key.shape[-3], query.shape[-3] // value.shape[-3]
    key, value = (heads.repeat_interleave(times, -3) for heads, times in zip((key, value), shared, strict=True))
    return aten.scaled_dot_product_attention.default(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)


def _avg_pool2d(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Scale the mean of full windows instead of using a divisor override, which coremltools lacks."""
    if divisor_override is None or ceil_mode:
        return NotImplemented
    elements = math.prod(kernel_size) if len(kernel_size) == 2 else kernel_size[0] ** 2
    return aten.avg_pool2d.default(x, kernel_size, stride, padding) * (elements / divisor_override)


def _group_norm(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """Normalize 16-bit values in float32, as torch does; coremltools mixes both dtypes and fails."""
    if x.dtype is not torch.float16:
        return NotImplemented
    rows = x.float().reshape(x.shape[0], groups, -1)
    centered = rows - rows.mean(-1, keepdim=True)
    normal = centered / torch.sqrt((centered * centered).mean(-1, keepdim=True) + eps)
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scaled = normal.reshape(x.shape) if weight is None else normal.reshape(x.shape) * weight.float().reshape(shape)
    return (scaled if bias is None else scaled + bias.float().reshape(shape)).to(x.dtype)


def _instance_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    """Use batch norm for explicit statistics, since coremltools always takes those of the input."""
    if use_input_stats:
        return NotImplemented
    return aten.batch_norm.default(x, weight, bias, mean, var, False, momentum, eps, cudnn_enabled)


def _nan_to_num(
    x: torch.Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """Use comparisons and clamps, since coremltools creates constants of data-dependent shapes."""
    if not x.is_floating_point():
        return NotImplemented
    limits = torch.finfo(x.dtype)
    low, high = limits.min if neginf is None else neginf, limits.max if posinf is None else posinf
    bounded = torch.where(x == math.inf, high, torch.where(x == -math.inf, low, x))
    return torch.where(x != x, nan or 0.0, bounded)


def _lerp(x: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    """Interpolate from the nearer end, as torch does."""
    return x + weight * (end - x) if abs(weight) < 0.5 else end - (end - x) * (1 - weight)


def _fmod(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Take the remainder of magnitudes, which has the sign of `x`."""
    return x.sign() * torch.remainder(x.abs(), y.abs() if isinstance(y, torch.Tensor) else abs(y))


def _addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """Scale the product and the bias by operators, since coremltools mixes the dtypes of their factors."""
    return NotImplemented if beta == alpha == 1 else beta * bias + alpha * (a @ b)


def _number(value: float, beside: torch.Tensor) -> torch.Tensor:
    """Return a number as a tensor of the dtype that it and `beside` are promoted to."""
    return beside.new_full((), value, dtype=torch.result_type(beside, value))


def _triangle(keeps: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return ``triu`` or ``tril`` as a selection: coremltools multiplies by zeros, and infinity times zero is NaN."""

    def triangle(x: torch.Tensor, diagonal: int = 0) -> torch.Tensor:
        distance = torch.arange(x.shape[-1]) - torch.arange(x.shape[-2]).unsqueeze(-1)
        kept = keeps(distance, diagonal)
        return torch.logical_and(kept, x) if x.dtype is torch.bool else torch.where(kept, x, _number(0, x))

    return triangle


def _where(choice: torch.Tensor, x: torch.Tensor, other: torch.Tensor) -> Any:
    """Choose between bools by logical ops, and give 0-d operands an axis.

    coremltools makes floats of constants among bools, and cannot broadcast 0-d operands.
    """
    if choice.dim() == x.dim() == other.dim() == 0:
        return torch.where(choice.reshape(1), x.reshape(1), other.reshape(1)).squeeze(0)
    if x.dtype is not torch.bool or other.dtype is not torch.bool:
        return NotImplemented
    return torch.logical_or(torch.logical_and(choice, x), torch.logical_and(torch.logical_not(choice), other))


def _cumsum(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """Count the axis from the first one, since coremltools takes no negative one but the last."""
    return aten.cumsum.default(x, dim + x.dim(), dtype=dtype) if dim < 0 and x.dim() else NotImplemented


def _index_copy(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> Any:
    """Replace slices by ``index_put``."""
    if not x.dim():
        return NotImplemented
    axis = dim % x.dim()
    changed = torch.index_put(x.movedim(axis, 0), [index.reshape(-1)], source.movedim(axis, 0))
    return changed.movedim(0, axis)


def _clamp(x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None) -> torch.Tensor:
    """Clamp by a maximum and a minimum, since coremltools takes numbers as bounds only."""
    x = x if low is None else aten.maximum.default(x, low)
    return x if high is None else aten.minimum.default(x, high)


def _product(x: torch.Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """Multiply halves until one element is left: as many steps as the logarithm of the size."""
    x = x if dtype is None else x.to(dtype)
    if not x.dim() or not isinstance(x.shape[dim], int) or not x.shape[dim]:
        return NotImplemented
    while (size := x.shape[dim]) > 1:
        pairs = x.narrow(dim, 0, size // 2) * x.narrow(dim, size // 2, size // 2)
        x = torch.cat([pairs, x.narrow(dim, size - 1, 1)], dim) if size % 2 else pairs
    return x if keepdim else x.squeeze(dim)


def _pad(x: torch.Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Slice for negative padding, and concatenate for circular padding, since coremltools lacks both.

    In 16 bits, constants are concatenated and edges gathered, both of which coremltools would pad in 32.
    """
    if mode in ("reflect", "replicate") and x.dtype is torch.float16:
        return _gathered_edges(x, pad, mode)
    is_narrow = mode == "constant" and x.dtype is torch.float16
    if mode != "circular" and min(pad, default=0) >= 0 and not is_narrow:
        return NotImplemented
    for at in range(0, len(pad), 2):
        axis, (before, behind) = x.dim() - 1 - at // 2, pad[at : at + 2]
        size = x.shape[axis]
        x = x.narrow(axis, max(0, -before), size - max(0, -before) - max(0, -behind))
        if mode == "circular":
            size = x.shape[axis]
            ends = x.narrow(axis, size - max(0, before), max(0, before)), x.narrow(axis, 0, max(0, behind))
            x = torch.cat([ends[0], x, ends[1]], axis)
        elif is_narrow:
            x = torch.cat([*_filled(x, axis, before, value), x, *_filled(x, axis, behind, value)], axis)
    if mode == "circular" or is_narrow:
        return x
    return aten.pad.default(x, [max(0, each) for each in pad], mode, value)


def _gathered_edges(x: torch.Tensor, pad: Sequence[int], mode: str) -> torch.Tensor:
    for at in range(0, len(pad), 2):
        axis = x.dim() - 1 - at // 2
        last = x.shape[axis] - 1
        places = torch.arange(-pad[at], last + 1 + pad[at + 1])
        places = last - (last - places.abs()).abs() if mode == "reflect" else places.clamp(0, last)
        x = x.index_select(axis, places)
    return x


def _filled(x: torch.Tensor, axis: int, size: int, value: float | None) -> list[torch.Tensor]:
    """Return `size` elements of `value` along an axis of `x`, if it is positive."""
    shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
    return [x.new_full(shape, value or 0.0)] if size > 0 else []


def _arange(start: float = 0, end: float = 0, step: float = 1, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    """Count in integers and cast, since coremltools ignores the dtype."""
    if dtype is None or not dtype.is_floating_point or not all(isinstance(each, int) for each in (start, end, step)):
        return NotImplemented
    return aten._to_copy.default(aten.arange.start_step(start, end, step, dtype=torch.int32), dtype=dtype)


def _max_pool(pool: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """Make the default stride, the kernel size, explicit, since coremltools requires it."""

    def pooled(x: torch.Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (), *rest: Any) -> Any:
        return NotImplemented if stride else pool(x, kernel_size, kernel_size, *rest)

    return pooled


_SPELLED_OUT: Mapping[Any, Callable[..., Any]] = {
    **ELEMENTARY,
    **REARRANGING,
    aten.arange.default: lambda end, **how: _arange(0, end, **how),
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten.constant_pad_nd.default: lambda x, pad, value=0: _pad(x, pad, "constant", value),
    aten.cumsum.default: _cumsum,
    aten.index_copy.default: _index_copy,
    aten.prod.default: lambda x, *, dtype=None: _product(x.reshape(-1), 0, dtype=dtype),
    aten.prod.dim_int: _product,
    aten.addmm.default: _addmm,
    aten.clamp.Tensor: _clamp,
    aten.fmod.Scalar: _fmod,
    aten.fmod.Tensor: _fmod,
    aten.gelu.default: _gelu,
    aten.reciprocal.default: _reciprocal,
    aten.bitwise_and.Tensor: _logical(torch.logical_and),
    aten.bitwise_or.Tensor: _logical(torch.logical_or),
    aten.bitwise_xor.Tensor: _logical(torch.logical_xor),
    aten.scaled_dot_product_attention.default: _attention,
    aten.matmul.default: _matmul,
    aten.mv.default: _matmul,
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    aten.lerp.Scalar: _lerp,
    aten.nan_to_num.default: _nan_to_num,
    aten.pad.default: _pad,
    aten.trunc.default: _trunc,
    aten.where.self: _where,
    aten.where.ScalarSelf: lambda choice, x, other: torch.where(choice, _number(x, other), other),
    aten.where.ScalarOther: lambda choice, x, other: torch.where(choice, x, _number(other, x)),
    aten.triu.default: _triangle(torch.ge),
    aten.tril.default: _triangle(torch.le),
    aten.asinh.default: lambda x: x.sign() * torch.log(x.abs() + torch.sqrt(x * x + 1)),
    aten.acosh.default: lambda x: torch.log(x + torch.sqrt(x * x - 1)),
    aten.log_sigmoid.default: lambda x: x.clamp(max=0) - torch.log1p(torch.exp(-x.abs())),
    aten.avg_pool2d.default: _avg_pool2d,
    aten.var.correction: variance,  # coremltools ignores the correction without axes
    aten.std.correction: deviation,
    aten.var_mean.correction: variance_and_mean,
    aten.std_mean.correction: deviation_and_mean,
    aten.max_pool1d.default: _max_pool(aten.max_pool1d.default),
    aten.max_pool2d.default: _max_pool(aten.max_pool2d.default),
    aten.max_pool3d.default: _max_pool(aten.max_pool3d.default),
    aten.upsample_nearest1d.vec: nearest(1),
    aten.upsample_nearest2d.vec: nearest(2),
    aten.upsample_nearest3d.vec: nearest(3),
    aten._upsample_nearest_exact1d.vec: nearest(1, 0.5),
    aten._upsample_nearest_exact2d.vec: nearest(2, 0.5),
    aten._upsample_nearest_exact3d.vec: nearest(3, 0.5),
    aten._upsample_bilinear2d_aa.vec: antialiased_bilinear,
}


@cache
def _made_of_others() -> dict[Any, Callable[..., Any]]:
    """Return torch's decompositions of ops that coremltools supports only in forms that torch does not export."""
    composite = torch.export.default_decompositions()
    return {op: composite[op] for op in (aten.cosine_similarity.default, aten.rms_norm.default)}
