"""The values that scales may have, so that products with codes are exact and backends store them without casts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphpress.ir.dtypes import DType

# Significant bits of a scale: its product with an 8-bit code is exact in the 24 bits of float32.
SCALE_BITS = 16


def round_scale_up(scale: Tensor, bits: int = SCALE_BITS) -> Tensor:
    """Round `scale` away from zero to the nearest float32 with `bits` significant bits."""
    pattern = scale.detach().float().contiguous().view(torch.int32)
    drop = 24 - bits
    kept = (pattern + ((1 << drop) - 1)) & -(1 << drop)
    return kept.view(torch.float32)


def scale_in(dtype: DType, scale: Tensor) -> Tensor:
    """Round `scale` up to values that a 16-bit `dtype` holds in full, if it can hold every entry; returns float32.

    Other dtypes return `scale`. There are no branches on values, so that torch can compile it.
    """
    bits = scale_bits(dtype)
    if bits == SCALE_BITS:
        return scale
    limits = torch.finfo(dtype.torch_dtype)
    rounded = round_scale_up(scale, bits)
    fits = ((rounded >= limits.smallest_normal) & (rounded <= limits.max)).all()
    return torch.where(fits, rounded, scale)


def scale_bits(dtype: DType) -> int:
    """Return the number of significant bits of scales beside values of `dtype`: its own for 16-bit floats."""
    return {DType.FLOAT16: 11, DType.BFLOAT16: 8}.get(dtype, SCALE_BITS)


def stored_in(dtype: DType, scale: Tensor) -> Tensor:
    """Return `scale` in a 16-bit `dtype` if that holds every entry in full, else unchanged."""
    if scale_bits(dtype) == SCALE_BITS:
        return scale
    narrow = scale.to(dtype.torch_dtype)
    is_exact = torch.equal(narrow.float(), scale.float())
    is_full = bool((narrow >= torch.finfo(narrow.dtype).smallest_normal).all())
    return narrow if is_exact and is_full else scale


def positive(scale: Tensor) -> Tensor:
    """Replace the scale 0 of an all-zero block by 1, which keeps later divisions finite."""
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale.clamp(torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max / 2)


def power_of_two_scale(magnitude: Tensor, dtype: DType) -> Tensor:
    """Return the block scale ``2^(floor(log2(magnitude)) - emax)``, emax being the largest exponent of `dtype`.

    From OCP Microscaling Formats v1.0, section 6.3: values in the upper part of an octave may be clipped.
    """
    greatest = math.frexp(dtype.maximum)[1] - 1
    exponent = torch.frexp(positive(magnitude.float()))[1] - 1
    return torch.ldexp(torch.ones_like(magnitude, dtype=torch.float32), (exponent - greatest).clamp(-126, 127))


def float16_scale_bits(dtype: DType, *, symmetric: bool) -> int:
    """Return the number of scale bits for which products with codes are exact in the 11 bits of float16.

    The codes are those of an integer `dtype` minus their zero point: up to half the range if it is symmetric, up to the
    whole range otherwise.
    """
    return 11 - (dtype.bits - 1 if symmetric else dtype.bits)


def fits_float16(scale: Tensor, dtype: DType, *, symmetric: bool) -> bool:
    """Return True if float16 holds `scale`, rounded to `float16_scale_bits`, and its product with every code."""
    bits = float16_scale_bits(dtype, symmetric=symmetric)
    least, most = 2.0 ** (bits - 1 - 24), torch.finfo(torch.float16).max / 2**dtype.bits
    return bool((scale >= least).all() and (scale <= most).all())
