"""Quantization of one weight: block scales and stored codes."""

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
"""Scale, zero point and minimum value: float32, one per block."""


def qparams_for(low: Tensor, high: Tensor, spec: QuantizationSpec) -> QParams:
    """Return the parameters that cover a range, by the scheme and formulation of `spec`.

    A `float_range` of the spec overrides the range.
    """
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
    """Round a scale to its storage dtype: that of the spec, or float32 if the spec's dtype cannot hold it."""
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
    """Codes with their quantization parameters.

    Attributes:
        codes: of the weight's shape, in the dtype that holds them.
        scale: per block, in its storage dtype.
        zero_point, minval: float32, of the same shape; None if absent.
        dtype: the element type of the codes.
        weight_dtype: the dtype of the weight.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    minval: Tensor | None
    dtype: DType
    weight_dtype: DType

    def dense(self) -> Tensor:
        """Return the dense weight, by the formulas of `graphpress.ir.reference`."""
        values = reference.dequantize(self.codes, self.scale, self.zero_point, self.minval, dtype=self.dtype)
        return values.to(self.weight_dtype.torch_dtype)


def quantize_weight(
    tensor: Tensor, spec: QuantizationSpec, block_size: tuple[int, ...], *, name: str = "weight"
) -> QuantizedWeight:
    """Quantize a weight to the nearest codes, with parameters that cover the range of each block.

    Scales are stored in the spec's dtype; if it is None, in float32, and for float16 weights in float16 if in range.
    The codes are computed with the stored scales.

    Args:
        tensor: the weight, floating and finite; it is not changed.
        spec: the quantization spec.
        block_size: the block size per axis, -1 for a whole axis; empty for one block.
        name: the name in error messages.

    Raises:
        QuantizationError: if the weight is not finite, or the spec has calculators that need a model.
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
    """Return a constant of `codes`, in sparse form if the weight is pruned and that is smaller.

    With a `mask`, the code of zero must be 0.
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
    """Emit ``(codes - zero point) * scale + minimum`` with `parameters` as constants named after `base`."""
    operands = {"input": codes}
    for part, tensor in parameters.items():
        if tensor is not None:
            operands[part] = rewriter.add_constant(f"{base}_{part}", tensor)
    name = f"{base}_{suffix}".replace(".", "_")
    return rewriter.insert_before(before, "quant.blockwise_shift_scale", operands, dtypes, name=name).result


def _half(scale: Tensor) -> Tensor:
    """Round scales up to float16 if it holds all of them with full precision."""
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
                f"{name}: {field} is {given!r}, which needs a prepared model; accepted for single weights: "
                f"{', '.join(map(repr, accepted))}"
            )
