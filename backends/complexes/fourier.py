"""Discrete Fourier transforms of constant length as products with constant matrices.

A transform of length n multiplies by the n-by-n matrix of ``exp(-2 pi i k m / n)``. Long ones are split into two
factors (Cooley and Tukey): transforms of both lengths with a product by constants between them, whose matrices are
small.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from graphpress.backends.complexes.pairs import MAKERS, Pair, UnsupportedComplexOp, matmul, rules

aten = torch.ops.aten

_TRANSFORMS = "fft fft2 fftn hfft hfft2 hfftn ifft ifft2 ifftn ihfft ihfft2 ihfftn irfft irfft2 irfftn rfft rfft2 rfftn"

MAKERS.update(getattr(aten, f"fft_{each}").default for each in _TRANSFORMS.split())  # some between real tensors

LONGEST_MATRIX = 512
"""The longest transform that is one product, unless the length has no factors."""


@lru_cache(maxsize=256)
def waves(rows: int, columns: int, length: int, sign: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the parts of ``scale * exp(sign * 2 pi i row column / length)``, computed in float64."""
    with _disable_current_modes():
        turns = torch.arange(rows).unsqueeze(1) * torch.arange(columns) % length
        angles = turns.double() * (2 * math.pi / length)
        is_quarter = turns * 4 % length == 0  # where both parts are -1, 0 or 1
        cos, sin = (torch.where(is_quarter, wave.round(), wave) for wave in (angles.cos(), angles.sin()))
        return (scale * cos).to(dtype), (sign * scale * sin).to(dtype)


@lru_cache(maxsize=256)
def synthesis(length: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the matrices by which the parts of a one-sided spectrum are multiplied for its real signal of `length`."""
    with _disable_current_modes():
        counts = _counts(length, 1.0, torch.float64).unsqueeze(1)
        cos, sin = waves(length // 2 + 1, length, length, 1, scale, torch.float64)
        return (counts * cos).to(dtype), (-counts * sin).to(dtype)


@lru_cache(maxsize=256)
def _counts(length: int, scale: float, dtype: torch.dtype) -> Tensor:
    """Return how many elements of the whole spectrum each of a one-sided one stands for, times `scale`."""
    with _disable_current_modes():
        counts = torch.full([length // 2 + 1], 2 * scale, dtype=dtype)
        counts[0] = scale
        if length % 2 == 0:
            counts[-1] = scale
        return counts


def scale_of(normalization: int, length: int) -> float:
    """Return the factor of torch's modes: none, one over the root of the length, one over the length."""
    return (1.0, 1 / math.sqrt(length), 1 / length)[normalization]


def is_one_product(length: int) -> bool:
    """Return False for a transform that is split into two factors of its length."""
    return length <= LONGEST_MATRIX or _lower_factor(length) == 1


def _lower_factor(length: int) -> int:
    """Return the largest factor up to the root."""
    return next(each for each in range(math.isqrt(length), 0, -1) if length % each == 0)


def _turned(re: Tensor, im: Tensor | None, cos: Tensor, sin: Tensor, multiply: Any) -> tuple[Tensor, Tensor]:
    """Multiply ``re + i im`` by ``cos + i sin``; no `im` is zero."""
    if im is None:
        return multiply(re, cos), multiply(re, sin)
    return multiply(re, cos) - multiply(im, sin), multiply(re, sin) + multiply(im, cos)


def _transformed(re: Tensor, im: Tensor | None, sign: int, scale: float) -> tuple[Tensor, Tensor]:
    """Multiply the last axis by the matrix of ``scale * exp(sign * 2 pi i k m / n)``."""
    length = re.shape[-1]
    if is_one_product(length):
        return _turned(re, im, *waves(length, length, length, sign, scale, re.dtype), matmul)
    return _split(re, im, sign, scale)


def _split(re: Tensor, im: Tensor | None, sign: int, scale: float) -> tuple[Tensor, Tensor]:
    """Transform an axis of length ``outer * inner``: elements ``inner * a + b`` become elements ``c + outer * d``."""
    shape, length = re.shape, re.shape[-1]
    inner = _lower_factor(length)
    outer = length // inner

    def columns(x: Tensor) -> Tensor:
        return x.reshape([*shape[:-1], outer, inner]).transpose(-1, -2)

    parts = _transformed(columns(re), None if im is None else columns(im), sign, scale)  # (b, c)
    parts = _turned(*parts, *waves(inner, outer, length, sign, 1.0, re.dtype), torch.mul)
    parts = _transformed(parts[0].transpose(-1, -2), parts[1].transpose(-1, -2), sign, 1.0)  # (c, d)
    return parts[0].transpose(-1, -2).reshape(shape), parts[1].transpose(-1, -2).reshape(shape)


def _constant(length: Any, operator: Any) -> int:
    if not isinstance(length, int):
        raise UnsupportedComplexOp(operator, "a transform of a dynamic length", "one of constant length")
    return length


@rules(aten._fft_c2c.default)
def fft_c2c(x: Pair, dim: list[int], normalization: int, forward: bool) -> Pair:
    """Transform each of the axes in turn."""
    re, im = x.re, x.im
    for axis in dim:
        scale = scale_of(normalization, _constant(x.shape[axis], aten._fft_c2c.default))
        re, im = _transformed(re.movedim(axis, -1), im.movedim(axis, -1), -1 if forward else 1, scale)
        re, im = re.movedim(-1, axis), im.movedim(-1, axis)
    return Pair(re, im)


@rules(aten._fft_r2c.default, makes_complex=True)
def fft_r2c(x: Tensor, dim: list[int], normalization: int, onesided: bool) -> Pair:
    """Transform the last axis of `dim`, of which half is computed if `onesided`, and then the others."""
    *others, last = dim
    length = _constant(x.shape[last], aten._fft_r2c.default)
    kept = length // 2 + 1 if onesided else length
    scale, rows = scale_of(normalization, length), x.movedim(last, -1)
    if is_one_product(length):
        re, im = _turned(rows, None, *waves(length, kept, length, -1, scale, x.dtype), matmul)
    else:
        re, im = (part.narrow(-1, 0, kept) for part in _transformed(rows, None, -1, scale))
    spectrum = Pair(re.movedim(-1, last), im.movedim(-1, last))
    return fft_c2c(spectrum, others, normalization, True) if others else spectrum


@rules(aten._fft_c2r.default)
def fft_c2r(x: Pair, dim: list[int], normalization: int, last_dim_size: int) -> Tensor:
    """Transform all axes of `dim` but the last back, and then that one from its half to a real signal."""
    *others, last = dim
    length = _constant(last_dim_size, aten._fft_c2r.default)
    x = fft_c2c(x, others, normalization, False) if others else x
    re, im, scale = x.re.movedim(last, -1), x.im.movedim(last, -1), scale_of(normalization, length)
    if is_one_product(length):
        cos, sin = synthesis(length, scale, re.dtype)
        signal = matmul(re, cos) + matmul(im, sin)
    else:
        counts = _counts(length, scale, re.dtype)
        missing = [0, length - length // 2 - 1]
        signal = _transformed(F.pad(re * counts, missing), F.pad(im * counts, missing), 1, 1.0)[0]
    return signal.movedim(-1, last)
