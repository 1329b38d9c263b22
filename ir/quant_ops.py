"""The `quant` dialect (compressed values) and the `fold` dialect (constants folded into weights).

The semantics are the formulas of `graphpress.ir.reference`. All ops are pure, unknown to torch, and replaced by
lowering.

Common attributes of the `quant` ops: `dtype` is the element type of the codes; `quant_min` and `quant_max` restrict the
codes to a part of its range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.ir.ops import REQUIRED, OpDef, Parameter, register_op
from graphpress.ir.types import TensorType

Attributes = Mapping[str, Any]
Types = Mapping[str, Any]


def _parameters(names: str, **defaults: Any) -> tuple[Parameter, ...]:
    return tuple(Parameter(name) for name in names.split()) + tuple(
        Parameter(name, default, keyword_only=True) for name, default in defaults.items()
    )


def _fake_quantize(
    input: Tensor,
    scale: Tensor | None = None,
    zero_point: Tensor | None = None,
    minval: Tensor | None = None,
    offset: Tensor | None = None,
    *,
    dtype: DType,
    quant_min: int | None = None,
    quant_max: int | None = None,
    quantizer: str = "",
) -> Tensor:
    if scale is None:
        return input
    return reference.fake_quantize(
        input, scale, zero_point, minval, offset, dtype=dtype, quant_min=quant_min, quant_max=quant_max
    )


def _dequantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    minval: Tensor | None = None,
    *,
    dtype: DType,
    quant_min: int | None = None,
    output_dtype: DType = DType.FLOAT32,
) -> Tensor:
    values = reference.dequantize(input, scale, zero_point, minval, dtype=dtype, quant_min=quant_min)
    return values.to(output_dtype.torch_dtype)


def _same_as_input(types: Types, attributes: Attributes) -> list[Any]:
    return [types["input"]]


def _codes_of_input(types: Types, attributes: Attributes) -> list[Any]:
    return [types["input"].with_dtype(attributes["dtype"])]


def _dequantized(types: Types, attributes: Attributes) -> list[Any]:
    return [types["input"].with_dtype(attributes.get("output_dtype", DType.FLOAT32))]


def _expanded_table(types: Types, attributes: Attributes) -> list[Any]:
    indices, lut = types["indices"], types["lut"]
    axis = attributes.get("axis", 0) % max(indices.rank, 1)
    shape = [n * lut.shape[-1] if i == axis else n for i, n in enumerate(indices.shape)]
    return [TensorType(lut.dtype, shape)]


def _dense(types: Types, attributes: Attributes) -> list[Any]:
    return [TensorType(types["values"].dtype, types["mask"].shape)]


def _factor(types: Types, attributes: Attributes) -> list[Any]:
    variance = types["running_var"]
    return [variance if variance.dtype is DType.FLOAT64 else variance.with_dtype(DType.FLOAT32)]


def _bias(types: Types, attributes: Attributes) -> list[Any]:
    return [types.get("bias") or types["running_mean"]]


def _scaled(types: Types, attributes: Attributes) -> list[Any]:
    data, factor = types["input"], types["factor"]
    axis = attributes["axis"] % data.rank
    if attributes.get("groups", 1) > 1:
        return [data]
    return [TensorType(data.dtype, [factor.shape[0] if i == axis else n for i, n in enumerate(data.shape)])]


_QPARAMS = {"scale": REQUIRED, "zero_point": None, "minval": None}

FAKE_QUANTIZE = register_op(
    OpDef(
        "quant.fake_quantize",
        _parameters(
            "input",
            scale=None,  # an uncalibrated quantizer has no parameters and passes its input through
            zero_point=None,
            minval=None,
            offset=None,  # steps from the nearest code of a weight to the chosen code
            dtype=REQUIRED,
            quant_min=None,
            quant_max=None,
            quantizer="",  # nodes with the same quantizer name share their parameters
        ),
        evaluate=_fake_quantize,
        infer=_same_as_input,
    )
)

QUANTIZE = register_op(
    OpDef(
        "quant.quantize",
        _parameters("input", **_QPARAMS, dtype=REQUIRED, quant_min=None, quant_max=None),
        evaluate=lambda input, scale, zero_point=None, minval=None, **how: reference.quantize(
            input, scale, zero_point, minval, **how
        ),
        infer=_codes_of_input,
    )
)

DEQUANTIZE = register_op(
    OpDef(
        "quant.dequantize",
        _parameters("input", **_QPARAMS, dtype=REQUIRED, quant_min=None, output_dtype=DType.FLOAT32),
        evaluate=_dequantize,
        infer=_dequantized,
    )
)

# The same arithmetic on a constant: the stored form of a compressed weight.
BLOCKWISE_SHIFT_SCALE = register_op(
    OpDef(
        "quant.blockwise_shift_scale",
        _parameters("input", **_QPARAMS, dtype=REQUIRED, quant_min=None, output_dtype=DType.FLOAT32),
        evaluate=_dequantize,
        infer=_dequantized,
    )
)

LUT_TO_DENSE = register_op(
    OpDef(
        "quant.lut_to_dense",
        _parameters("indices lut", axis=0),
        evaluate=reference.lut_to_dense,
        infer=_expanded_table,
    )
)

SPARSE_TO_DENSE = register_op(
    OpDef("quant.sparse_to_dense", _parameters("values mask"), evaluate=reference.sparse_to_dense, infer=_dense)
)

KEPT_ELEMENTS = register_op(
    OpDef(
        "quant.kept_elements",  # the inverse of sparse_to_dense; `count` is the number of kept elements
        _parameters("input mask", count=REQUIRED),
        evaluate=lambda input, mask, *, count: input[mask.bool()],
        infer=lambda types, attributes: [TensorType(types["input"].dtype, [attributes["count"]])],
    )
)

BATCH_NORM_FACTOR = register_op(
    OpDef(
        "fold.batch_norm_factor",
        _parameters("running_var", weight=None, eps=1e-5, momentum=0.1),  # momentum is used in training only
        evaluate=lambda running_var, weight=None, eps=1e-5, momentum=0.1: reference.batch_norm_factor(
            running_var, weight, eps
        ),
        infer=_factor,
    )
)

BATCH_NORM_BIAS = register_op(
    OpDef(
        "fold.batch_norm_bias",
        _parameters("factor running_mean", norm_bias=None, bias=None),
        evaluate=lambda factor, running_mean, norm_bias=None, bias=None: reference.batch_norm_bias(
            factor, running_mean, norm_bias, bias
        ),
        infer=_bias,
    )
)

INPUT_SHIFT_BIAS = register_op(
    OpDef(
        "fold.input_shift_bias",
        _parameters("weight shift", bias=None),
        evaluate=lambda weight, shift, bias=None: reference.input_shift_bias(weight, shift, bias),
        infer=lambda types, _: [TensorType(types["weight"].dtype, types["weight"].shape[:1])],
    )
)

SHIFT_BIAS = register_op(
    OpDef(
        "fold.shift_bias",
        _parameters("shift", bias=None),
        evaluate=lambda shift, bias=None: reference.shift_bias(shift, bias),
        infer=lambda types, _: [types.get("bias") or types["shift"]],
    )
)

SCALE_AXIS = register_op(
    OpDef(
        "fold.scale_axis",
        _parameters("input factor", axis=REQUIRED, groups=1, is_scale=False),
        evaluate=lambda input, factor, *, axis, groups=1, is_scale=False: reference.scale_axis(
            input, factor, axis, groups, is_scale
        ),
        infer=_scaled,
    )
)


ROTATE_AXIS = register_op(
    OpDef(
        "fold.rotate_axis",
        _parameters("input rotation", axis=REQUIRED),
        evaluate=lambda input, rotation, *, axis: reference.rotate_axis(input, rotation, axis),
        infer=lambda types, attributes: [types["input"]],
    )
)


SCALE_KEPT = register_op(
    OpDef(
        "fold.scale_kept",
        _parameters("values mask factor", axis=REQUIRED, groups=1),
        # The kept elements of the result of `scale_axis` on the dense weight.
        evaluate=lambda values, mask, factor, *, axis, groups=1: reference.scale_axis(
            reference.sparse_to_dense(values, mask), factor, axis, groups
        )[mask.bool()],
        infer=lambda types, attributes: [types["values"]],
    )
)


def evaluate(op: OpDef, **arguments: Any) -> torch.Tensor:
    """Run an op of these dialects on tensors."""
    assert op.evaluate is not None
    return op.evaluate(**arguments)
