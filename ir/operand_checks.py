"""Checks of operands whose sizes torch's CPU kernels trust, and of numbers that are the work of an op.

A kernel that reads or writes past its operands ends the process, or worse, and a number in a short text may be the
steps of a loop that runs for hours. Graphs that torch made never have such operands; graphs from files can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Check = Callable[[Mapping[str, Any]], str | None]


def operand_check(name: str) -> Check | None:
    """Return the check of the op `name`, or None if torch checks its operands itself.

    The check takes tensors (of any device, meta included) and attributes by parameter name, and returns why the op
    would leave the memory of its operands or would not end, or None if it would not.
    """
    dialect, _, rest = name.partition(".")
    short = rest.partition(".")[0]
    if dialect == "prims":
        return _CHECKS.get(f"_{short}") if short.startswith("fft_") else None
    return _CHECKS.get(short) if dialect == "aten" else None


def _batch_norm(bound: Mapping[str, Any]) -> str | None:
    data = bound.get("input")
    if not isinstance(data, torch.Tensor) or data.ndim < 2:
        return "its input has no channels"
    channels = data.shape[1]
    for key in ("weight", "bias", "running_mean", "running_var"):
        value = bound.get(key)
        if isinstance(value, torch.Tensor) and tuple(value.shape) != (channels,):
            return f"{key} has the shape {list(value.shape)}; expected [{channels}], one element for each channel"
    return None


def _attention(bound: Mapping[str, Any]) -> str | None:
    query, key, value = (bound.get(name) for name in ("query", "key", "value"))
    tensors = [each for each in (query, key, value) if isinstance(each, torch.Tensor)]
    if len(tensors) < 3 or min(each.ndim for each in tensors) < 2:
        return "query, key and value need two dims or more"
    q, k, v = (tuple(each.shape) for each in tensors)
    if k[-2] != v[-2]:
        return f"key has {k[-2]} positions and value {v[-2]}; expected as many"
    if q[-1] != k[-1]:
        return f"query has {q[-1]} features and key {k[-1]}; expected as many"
    return None


def _flash_attention(bound: Mapping[str, Any]) -> str | None:
    fault = _attention(bound)
    if fault is not None:
        return fault
    q, k, v = (tuple(bound[name].shape) for name in ("query", "key", "value"))
    if not len(q) == len(k) == len(v) == 4 or q[0] != k[0] or k[:2] != v[:2] or not k[1] or q[1] % k[1]:
        return f"query, key and value have the batches and heads {q[:2]}, {k[:2]} and {v[:2]}; expected equal ones"
    return None


def _antialiased(bound: Mapping[str, Any]) -> str | None:
    data = bound.get("input", bound.get("self"))
    if not isinstance(data, torch.Tensor) or data.ndim != 4:
        return "its input needs four dims"
    factors = bound.get("scale_factors") or (bound.get("scales_h"), bound.get("scales_w"))
    wanted: Sequence[Any] = bound.get("output_size") or (None, None)
    for size, factor, out in zip(data.shape[2:], factors, wanted, strict=True):
        if factor is None:
            continue
        if not 1 <= size * factor < 2**31 or (out is not None and abs(size * factor - out) > 1):
            return f"a side of {size} is scaled by {factor} to {out or 'nothing'}; expected the ratio of the sizes"
    return None


def _weight_norm(bound: Mapping[str, Any]) -> str | None:
    direction, length, dim = bound.get("v"), bound.get("g"), bound.get("dim", 0)
    if not isinstance(direction, torch.Tensor) or not isinstance(length, torch.Tensor):
        return "v and g need to be tensors"
    if direction.ndim == 0 or dim not in (0, direction.ndim - 1) or length.numel() != direction.shape[dim]:
        return f"g has {length.numel()} elements for dim {dim} of v {list(direction.shape)}; expected one for each row"
    return None


def _any_weight_norm(bound: Mapping[str, Any]) -> str | None:
    direction = bound.get("v")
    if isinstance(direction, torch.Tensor) and not direction.numel():
        return "v has no elements"
    is_fused = isinstance(direction, torch.Tensor) and bound.get("dim", 0) in (0, direction.ndim - 1)
    return _weight_norm(bound) if is_fused else None


def _fourier(bound: Mapping[str, Any]) -> str | None:
    data, axes = bound.get("self"), bound.get("dim")
    rank = data.ndim if isinstance(data, torch.Tensor) else 0
    given = axes if isinstance(axes, list | tuple) else ()
    if not all(isinstance(axis, int) and 0 <= axis < rank for axis in given) or len({*given}) != len(given):
        return f"its axes are {list(given)} of {rank}; expected different ones"
    return None


_MOST_STEPS = 100


def _steps(name: str) -> Check:
    def check(bound: Mapping[str, Any]) -> str | None:
        steps = bound.get(name, 0)
        return f"{name} is {steps}; accepted: {_MOST_STEPS}" if isinstance(steps, int) and steps > _MOST_STEPS else None

    return check


_CHECKS: dict[str, Check] = {
    "diff": _steps("n"),
    "combinations": _steps("r"),
    "native_batch_norm": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "miopen_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_functional": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_batch_norm_no_update": _batch_norm,
    "_batch_norm_with_update": _batch_norm,
    "_batch_norm_with_update_functional": _batch_norm,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _flash_attention,
    "_upsample_bilinear2d_aa": _antialiased,
    "_upsample_bicubic2d_aa": _antialiased,
    "_weight_norm_interface": _weight_norm,
    "_weight_norm": _any_weight_norm,
    "_fft_c2c": _fourier,
    "_fft_c2r": _fourier,
    "_fft_r2c": _fourier,
}
