"""Quantize one weight: the scales for a range, and the codes as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.config import QuantizationScheme, QuantizationSpec
from graphpress.passes.weights.errors import QuantizationError
from graphpress.passes.weights.prune import is_smaller_sparse

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


_FLOAT16_BITS = 11  # significant bits


@frozen(eq=False)
class QuantizedWeight:
    """Codes, and what they stand for.

    Attributes:
        codes: of the weight's shape, in the dtype that holds them.
        scale: of each block, in the dtype it is stored in.
        zero_point, minval: float32, of the same shape; None where there is none.
        dtype: of the codes.
        weight_dtype: of the weight.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    minval: Tensor | None
    dtype: DType
    weight_dtype: DType

    def dense(self) -> Tensor:
        """The weight that is stored, by the formulas of `graphpress.ir.reference`."""
        values = reference.dequantize(self.codes, self.scale, self.zero_point, self.minval, dtype=self.dtype)
        return values.to(self.weight_dtype.torch_dtype)


def quantize_weight(
    tensor: Tensor, spec: QuantizationSpec, block_size: tuple[int, ...], *, name: str = "weight"
) -> QuantizedWeight:
    """The codes nearest to a weight, on grids that cover the range of each block.

    Scales are stored in the dtype of `spec`; where that is None, in float32, and for a weight of float16 in float16, of
    which each is then exactly what the codes were found with, unless it is out of range there.

    Args:
        tensor: the weight, floating and finite; it is only read.
        spec: how.
        block_size: the extents of a block, -1 for a whole axis; empty for one block.
        name: for errors.

    Raises:
        QuantizationError: for a weight that is not finite, and for a spec with calculators that want a model.
    """
    _check(tensor, spec, name)
    values = tensor.detach().cpu()
    low, high = reference.block_range(values, block_size)
    scale, zero_point, minval = qparams_for(low, high, spec)
    stored = _half(scale) if spec.scale_dtype is None and values.dtype is torch.float16 else stored_scale(scale, spec)
    bounds: dict[str, Any] = {}
    if spec.element_type.is_integer:
        bounds = {"quant_min": int(spec.quant_min), "quant_max": int(spec.quant_max)}
    codes = reference.quantize(values, stored, zero_point, minval, dtype=spec.element_type, **bounds)
    return QuantizedWeight(codes, stored, zero_point, minval, spec.element_type, DType.of(values.dtype))


def stored_codes(
    codes: Tensor, dtype: DType, base: str, mask: Constant | None, before: Node, rewriter: Rewriter
) -> Value:
    """A constant of `codes`; of a pruned weight, those of the elements that `mask` keeps, expanded, where that takes
    less space. The code of zero must be 0 where there is a mask.
    """
    if mask is None or not is_smaller_sparse(mask.tensor, dtype.bits):
        return rewriter.add_constant(f"{base}_quantized", codes, type=TensorType(dtype, codes.shape))
    kept = codes[mask.tensor.bool()]
    operands = {
        "values": rewriter.add_constant(f"{base}_codes", kept, type=TensorType(dtype, kept.shape)),
        "mask": mask.value,
    }
    name = f"{base}_sparse".replace(".", "_")
    return rewriter.insert_before(before, "quant.sparse_to_dense", operands, name=name).result


def shifted_and_scaled(
    codes: Value,
    parameters: Mapping[str, Tensor | None],
    dtypes: Mapping[str, DType],
    base: str,
    suffix: str,
    before: Node,
    rewriter: Rewriter,
) -> Value:
    """``(codes - zero point) * scale + minimum`` with the `parameters` there are, as constants called after `base`."""
    operands = {"input": codes}
    for part, tensor in parameters.items():
        if tensor is not None:
            operands[part] = rewriter.add_constant(f"{base}_{part}", tensor)
    name = f"{base}_{suffix}".replace(".", "_")
    return rewriter.insert_before(before, "quant.blockwise_shift_scale", operands, dtypes, name=name).result


def _half(scale: Tensor) -> Tensor:
    """The next larger scales that float16 holds, if it holds all of them in full."""
    limits = torch.finfo(torch.float16)
    rounded = reference.round_scale_up(scale, _FLOAT16_BITS)
    fits = bool((rounded >= limits.smallest_normal).all() and (rounded <= limits.max).all())
    return rounded.half() if fits else scale


def _check(tensor: Tensor, spec: QuantizationSpec, name: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        raise QuantizationError(f"{name}: {count} of {tensor.numel()} elements are NaN or infinite; all must be finite")
    wanted = {
        "fake_quantize_cls": ("default",),
        "qparam_calculator_cls": ("default", "static"),
        "range_calculator_cls": ("minmax",),
    }
    for field, accepted in wanted.items():
        given = getattr(spec, field)
        if given not in accepted:
            raise QuantizationError(
                f"{name}: {field} is {given!r}, which is for prepared models; accepted where weights are quantized by "
                f"themselves: {', '.join(map(repr, accepted))}"
            )
