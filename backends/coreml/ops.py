"""The `coreml` dialect: what coremltools reads off a torch model, as ops of the IR."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from graphpress.backends.coreml.metadata import ACTIVATIONS
from graphpress.ir.dtypes import DType
from graphpress.ir.ops import REQUIRED, OpDef, Parameter, register_dialect, register_op


def quantize_dequantize(input: Tensor, scale: float, zero_point: int, dtype: torch.dtype) -> Tensor:
    """`input` as its codes stand for it, by torch's own ops, of which coremltools knows some in a trace and others in
    an exported program.
    """
    if torch.compiler.is_compiling():
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops
        ops: Any = torch.ops.quantized_decomposed
        plain = torch.uint8 if dtype is torch.quint8 else torch.int8
        code_range = torch.iinfo(plain)
        how = (scale, zero_point, code_range.min, code_range.max, plain)
        made: Tensor = ops.dequantize_per_tensor(ops.quantize_per_tensor(input.float(), *how), *how)
        return made.to(input.dtype)
    codes = torch.quantize_per_tensor(input.float(), scale, zero_point, dtype)
    return codes.dequantize().to(input.dtype)


def _evaluate(input: Tensor, *, scale: float, zero_point: int, dtype: DType) -> Tensor:
    return quantize_dequantize(input, scale, zero_point, ACTIVATIONS[dtype])


def _load() -> None:
    register_op(
        OpDef(
            "coreml.described",  # a float weight, and the tensors that describe it
            (Parameter("weight"), Parameter("entries"), Parameter("keys", REQUIRED, keyword_only=True)),
            evaluate=lambda weight, entries, keys: weight,
            infer=lambda types, attributes: [types["weight"]],
        )
    )
    register_op(
        OpDef(
            "coreml.quantize_dequantize",
            (
                Parameter("input"),
                *(Parameter(name, REQUIRED, keyword_only=True) for name in ("scale", "zero_point", "dtype")),
            ),
            evaluate=_evaluate,
            infer=lambda types, attributes: [types["input"]],
        )
    )


register_dialect("coreml", _load)

__all__: list[Any] = ["quantize_dequantize"]
