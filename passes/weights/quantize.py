"""Quantization of one weight: block scales and stored codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir import reference, scales
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.config import QuantizationFormulation, QuantizationScheme, QuantizationSpec
from graphpress.passes.weights.errors import QuantizationError
from graphpress.passes.weights.prune import is_smaller_sparse
from graphpress.passes.weights.stored import StoredWeight, node_name

QParams = tuple[Tensor, Tensor | None, Tensor | None]
"""Scale, zero point and minimum value: float32, one per block."""


def qparams_for(
    low: Tensor, high: Tensor, spec: QuantizationSpec, *, data_dtype: torch.dtype = torch.float32
) -> QParams:
    """The parameters that cover a range, by the scheme and formulation of `spec`, whose `float_range` overrides it.

    Those of data of 16 bits have scales that its dtype holds, if it can hold all of them in full, so that quantizing
    and dequantizing need no casts.
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
        data_dtype=scale_dtype_for(spec, data_dtype),
    )


def scale_dtype_for(spec: QuantizationSpec, data_dtype: torch.dtype) -> DType:
    """The dtype that scales are rounded to: that of 16-bit data, unless `spec` names one or adds a minimum value.

    A minimum value is added in the dtype of the scale, so that the sum would be rounded twice.
    """
    is_open = spec.scale_dtype is None and spec.qformulation is not QuantizationFormulation.MINVAL
    return DType.of(data_dtype) if is_open else DType.FLOAT32


def stored_scale(scale: Tensor, spec: QuantizationSpec, data_dtype: torch.dtype) -> Tensor:
    """The scale in the dtype it is stored in: that of the spec, or float32 where the spec's cannot hold it.

    Where the spec names none, scales of 16-bit data are of its dtype if that holds them exactly.
    """
    if spec.scale_dtype is None:
        return scales.stored_in(scale_dtype_for(spec, data_dtype), scale)
    symmetric = spec.qscheme is not QuantizationScheme.ASYMMETRIC
    if DType.of(spec.scale_dtype) is DType.FLOAT16 and not scales.fits_float16(
        scale, spec.element_type, symmetric=symmetric
    ):
        return scale
    return scale.to(spec.scale_dtype)


@frozen(eq=False)
class QuantizedWeight(StoredWeight):
    """Codes, and what they stand for.

    Attributes:
        codes: of the weight's shape, in the dtype that holds them.
        scale: of each block, in the dtype it is stored in.
        zero_point, minval: float32, of the same shape; None where there is none.
        dtype: of the codes.
        weight_dtype: of the weight.
        mask: true for the kept elements of a pruned weight, of its shape; None for other weights.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    minval: Tensor | None
    dtype: DType
    weight_dtype: DType
    mask: Tensor | None = None

    @classmethod
    def of(
        cls,
        tensor: Tensor,
        spec: QuantizationSpec,
        qparams: QParams,
        *,
        offset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> QuantizedWeight:
        """The codes nearest to `tensor` on the grids of `qparams`; `offset` as `reference.quantize` takes it."""
        values = tensor.detach()
        scale, zero_point, minval = qparams
        stored = stored_scale(scale, spec, values.dtype)
        bounds: dict[str, Any] = {}
        if spec.element_type.is_integer:
            bounds = code_bounds(spec.element_type, spec.quant_min, spec.quant_max, counts_up=minval is not None)
        codes = reference.quantize(values, stored, zero_point, minval, offset, dtype=spec.element_type, **bounds)
        return cls(codes, stored, zero_point, minval, spec.element_type, DType.of(values.dtype), mask)

    def dense(self) -> Tensor:
        """See the base class."""
        values = reference.dequantize(self.codes, self.scale, self.zero_point, self.minval, dtype=self.dtype)
        return values.to(self.weight_dtype.torch_dtype)

    def expand(self, base: str, before: Node | None, rewriter: Rewriter, mask: Value | None = None) -> Value:
        """See the base class. Of a pruned weight the kept elements are stored, where the code of zero is 0."""
        has_zero = self.minval is None and (self.zero_point is None or not bool(self.zero_point.any()))
        if mask is None and self.mask is not None and has_zero:
            mask = rewriter.add_constant(f"{base}_mask", self.mask)
        places = mask.constant if mask is not None and has_zero else None
        codes = stored_codes(self.codes, self.dtype, base, places, before, rewriter)
        parameters = {"scale": self.scale, "zero_point": self.zero_point, "minval": self.minval}
        dtypes = {"dtype": self.dtype, "output_dtype": self.weight_dtype}
        return shifted_and_scaled(codes, parameters, dtypes, base, "dequantized", before, rewriter)


def quantize_weight(
    tensor: Tensor,
    spec: QuantizationSpec,
    block_size: tuple[int, ...],
    *,
    name: str = "weight",
    mask: Tensor | None = None,
) -> QuantizedWeight:
    """Quantize a weight to the nearest codes, with parameters that cover the range of each block.

    Args:
        tensor: the weight, floating and finite; it is only read.
        spec: how.
        block_size: the extents of a block, -1 for a whole axis; empty for one block.
        name: for errors.
        mask: true for the kept elements of a pruned weight.

    Raises:
        QuantizationError: if the weight is not finite, or the spec has calculators that need a model.
    """
    _check(tensor, spec, name)
    values = tensor.detach().cpu()
    low, high = reference.block_range(values, block_size)
    return QuantizedWeight.of(values, spec, qparams_for(low, high, spec, data_dtype=values.dtype), mask=mask)


def code_bounds(dtype: DType, low: float | None, high: float | None, *, counts_up: bool) -> dict[str, int]:
    """Lowest and highest code of an integer `dtype`, where they are not those of the type.

    With a minimum value codes count up from it (`counts_up`), so that the lowest code may as well be the type's lowest.
    """
    low, high = dtype.minimum if low is None else low, dtype.maximum if high is None else high
    if counts_up:
        low, high = dtype.minimum, dtype.minimum + high - low
    bounds = {"quant_min": (low, dtype.minimum), "quant_max": (high, dtype.maximum)}
    return {name: int(bound) for name, (bound, usual) in bounds.items() if bound != usual}


def stored_codes(
    codes: Tensor, dtype: DType, base: str, mask: Constant | None, before: Node | None, rewriter: Rewriter
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
    return rewriter.insert_before(before, "quant.sparse_to_dense", operands, name=node_name(base, "sparse")).result


def shifted_and_scaled(
    codes: Value,
    parameters: Mapping[str, Tensor | None],
    dtypes: Mapping[str, DType],
    base: str,
    suffix: str,
    before: Node | None,
    rewriter: Rewriter,
) -> Value:
    """Emit ``(codes - zero point) * scale + minimum`` with `parameters` as constants named after `base`."""
    operands = {"input": codes}
    for part, tensor in parameters.items():
        if tensor is not None:
            operands[part] = rewriter.add_constant(f"{base}_{part}", tensor)
    name = node_name(base, suffix)
    return rewriter.insert_before(before, "quant.blockwise_shift_scale", operands, dtypes, name=name).result


def require_finite(tensor: Tensor, name: str) -> None:
    """Check that every element of a weight can have a code.

    Raises:
        QuantizationError: naming the weight, if it has NaN or infinite elements, or none.
    """
    if not tensor.numel():
        raise QuantizationError(f"{name} of shape {tuple(tensor.shape)} has no elements to quantize; skip it by name")
    values = tensor.detach()
    if all(
        bool(torch.isfinite(end)) for end in torch.aminmax(values)
    ):  # NaN is both; 20 times faster than every element
        return
    count = tensor.numel() - int(torch.isfinite(values).sum())
    raise QuantizationError(f"{name}: {count} of {tensor.numel()} elements are NaN or infinite; all must be finite")


def _check(tensor: Tensor, spec: QuantizationSpec, name: str) -> None:
    require_finite(tensor, name)
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
