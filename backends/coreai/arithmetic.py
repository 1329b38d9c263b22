"""The arithmetic of Core AI's reference runtime, reproduced in torch.

Torch and the runtime add the same products in different orders, so their float32 sums differ in the last bits. At
rounding ties, values then quantize to codes that are one step apart. To distinguish such ties from errors, a model is
evaluated again in the runtime's arithmetic, as observed for coreai-core 1.0.0b3 on Linux:

- 1-D and 2-D convolutions accumulate exactly and round once; the bias is added afterwards;
- matrix products multiply, round, add and round, in the order of the inner dimension, in their own dtype; those of
  bfloat16 do so in float32 if the batch dims of both operands are the same, as in a batched product of torch;
- means and sums add in row-major order;
- exponentials, softmax and square roots are rounded from an exact result, and sigmoid, silu, hardswish, elu, attention
  and the norms are composed of the steps above; average pools sum exactly, then divide;
- gelu computes erfc in float64; logarithms and tanh are those of the C library;
- quantize computes in float32, whatever the dtype of its scale: it divides, rounds half to even, adds the zero point
  and clips (`ops.quantize`); codes of less than 8 bits, which torch has no kernels for, are held in 8;
- dequantize computes in the dtype of its scale, as torch does.

Other operators run in torch: they agree with the runtime to a few units in the last place.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from graphpress.backends.comparison import exact_convolution
from graphpress.backends.coreai import ops

_LONGEST_LOOP = 1 << 16  # longer sums use float64, since the Python loop would take too long

aten = torch.ops.aten


class RuntimeArithmetic(TorchDispatchMode):
    """Mode in which float operators compute as the runtime does; at least three times slower."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = ops.quantize if func.name() == "coreai::quantize" else _RULES.get(func)
        kwargs = kwargs or {}
        if rule is None or not _is_floating(args[0]):
            return func(*args, **kwargs)
        with torch.utils._python_dispatch._disable_current_modes():
            return rule(*args, **kwargs)


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.float16, torch.bfloat16)


def _matrix_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    inner = a.shape[-1]
    if inner > _LONGEST_LOOP:
        return (a.double() @ b.double()).to(a.dtype)
    total = a.new_zeros([*a.shape[:-1], b.shape[-1]])
    for k in range(inner):
        total += a[..., k : k + 1] * b[..., k : k + 1, :]
    return total


def _batched_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.dtype is torch.bfloat16:
        return _matrix_product(a.float(), b.float()).to(a.dtype)
    return _matrix_product(a, b)


def _addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    product = _matrix_product(a, b)
    return (product if alpha == 1 else product * alpha) + (bias if beta == 1 else bias * beta)


def _sum(x: torch.Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None) -> torch.Tensor:
    if dtype is not None and dtype != x.dtype:
        return aten.sum.dim_IntList(x, dims, keepdim, dtype=dtype)
    axes = sorted(dim % x.dim() for dim in dims) if dims else list(range(x.dim()))
    kept = [dim for dim in range(x.dim()) if dim not in axes]
    count = math.prod(x.shape[dim] for dim in axes)
    if count > _LONGEST_LOOP:
        return aten.sum.dim_IntList(x.double(), axes, keepdim).to(x.dtype)
    rows = x.permute(*kept, *axes).reshape(*[x.shape[dim] for dim in kept], count)
    total = torch.zeros_like(rows[..., 0])
    for at in range(count):
        total += rows[..., at]
    return total.reshape([1 if dim in axes else size for dim, size in enumerate(x.shape)]) if keepdim else total


def _mean(x: torch.Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None) -> torch.Tensor:
    count = math.prod(x.shape[dim] for dim in dims) if dims else x.numel()
    return _sum(x, dims, keepdim, dtype) / count


def _layer_norm(
    x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    normal, mean, inverse = _normalized(x, list(range(-len(shape), 0)), eps)
    return _scaled_and_shifted(normal, weight, bias), mean, inverse


def _group_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    normal, mean, inverse = _normalized(x.reshape(batch, groups, -1), [2], eps)
    per_channel = [1, channels] + [1] * (x.dim() - 2)
    weight = None if weight is None else weight.reshape(per_channel)
    bias = None if bias is None else bias.reshape(per_channel)
    return _scaled_and_shifted(normal.reshape(x.shape), weight, bias), mean, inverse


def _normalized(x: torch.Tensor, dims: list[int], eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mean = _mean(x, dims, keepdim=True)
    centered = x - mean
    inverse = torch.rsqrt(_mean(centered * centered, dims, keepdim=True) + eps)
    return centered * inverse, mean, inverse


def _scaled_and_shifted(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = _matrix_product(query * torch.tensor(scale, dtype=query.dtype), key.transpose(-1, -2))
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    if attn_mask is not None:
        scores = scores + attn_mask
    return _matrix_product(_softmax(scores, -1, False), value), scores.new_empty(0)


def _avg_pool2d(x: torch.Tensor, kernel: Sequence[int], *settings: Any, **more: Any) -> torch.Tensor:
    if len(settings) > 1 or more:  # padding and its counting modes: computed by torch
        return aten.avg_pool2d(x, kernel, *settings, **more)
    count = kernel[0] * kernel[-1]
    return (aten.avg_pool2d(x.double(), kernel, *settings) * count).to(x.dtype) / count


def _rounded_once(operator: Any) -> Callable[..., torch.Tensor]:
    def rule(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return operator(x.double(), *args, **kwargs).to(x.dtype)

    return rule


_exp = _rounded_once(aten.exp.default)
_softmax = _rounded_once(aten._softmax.default)


def _elu(x: torch.Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> torch.Tensor:
    negative = (_exp(x * input_scale) - 1) * alpha
    return torch.where(x > 0, x, negative) * scale


def _gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    if approximate != "none":
        return aten.gelu(x, approximate=approximate)
    argument = -(x * torch.tensor(math.sqrt(0.5), dtype=x.dtype))
    return 0.5 * x * torch.special.erfc(argument.double()).to(x.dtype)


def _c_library_function(name: str, otherwise: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the C library's float32 function, as the runtime uses it, or torch's if unavailable."""

    def rule(x: torch.Tensor) -> torch.Tensor:
        try:
            function = getattr(ctypes.CDLL("libm.so.6"), name)
        except (OSError, AttributeError):  # another C library, which may differ in the last bit
            return otherwise(x)
        function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
        return torch.tensor([function(value) for value in x.flatten().tolist()], dtype=x.dtype).reshape(x.shape)

    return rule


_RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: exact_convolution,
    aten.mm.default: _matrix_product,
    aten.bmm.default: _batched_product,
    aten.addmm.default: _addmm,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _sum,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.avg_pool2d.default: _avg_pool2d,
    aten.exp.default: _exp,
    aten.log.default: _c_library_function("logf", aten.log.default),
    aten.tanh.default: _c_library_function("tanhf", aten.tanh.default),
    aten.gelu.default: _gelu,
    aten.expm1.default: lambda x: _exp(x) - 1,
    aten._softmax.default: _softmax,
    aten.sqrt.default: _rounded_once(aten.sqrt.default),
    aten.sigmoid.default: lambda x: 1 / (1 + _exp(-x)),
    aten.silu.default: lambda x: x / (1 + _exp(-x)),
    aten.hardswish.default: lambda x: x * (torch.clamp(x + 3, 0, 6) / 6),
    aten.elu.default: _elu,
}
