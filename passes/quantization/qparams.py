"""Scale, zero point and minimum value, as a spec wants them for a range."""

from __future__ import annotations

import torch
from torch import Tensor

from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.passes.specs import QuantizationScheme, QuantizationSpec

QParams = tuple[Tensor, Tensor | None, Tensor | None]
"""Scale, zero point and minimum value: float32, one for each block."""


def qparams_for(low: Tensor, high: Tensor, spec: QuantizationSpec) -> QParams:
    """The parameters that cover a range, by the scheme and formulation of `spec`, whose `float_range` overrides it."""
    fixed_low, fixed_high = spec.float_range
    low = low if fixed_low is None else torch.full_like(low, fixed_low)
    high = high if fixed_high is None else torch.full_like(high, fixed_high)
    is_floating = spec.element_type.is_floating
    return reference.qparams_from_range(
        low,
        high,
        dtype=spec.element_type,
        symmetric=spec.qscheme is not QuantizationScheme.ASYMMETRIC,
        formulation=spec.qformulation.value,
        quant_min=None if is_floating else int(spec.quant_min),
        quant_max=None if is_floating else int(spec.quant_max),
        scale_dtype=DType.FLOAT32 if spec.scale_dtype is None else DType.of(spec.scale_dtype),
    )


def stored_scale(scale: Tensor, spec: QuantizationSpec) -> Tensor:
    """The scale of a weight in the dtype it is stored in: that of the spec, or float32 where the spec's cannot hold
    it.
    """
    if spec.scale_dtype is None:
        return scale
    symmetric = spec.qscheme is not QuantizationScheme.ASYMMETRIC
    if DType.of(spec.scale_dtype) is DType.FLOAT16 and not reference.fits_float16(
        scale, spec.element_type, symmetric=symmetric
    ):
        return scale
    return scale.to(spec.scale_dtype)
