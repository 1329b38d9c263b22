"""The metadata form of a compressed graph: the `coreml_metadata` dialect, and the pass that lowers `quant` to it.

This is the form of `ExportBackend.CoreML`: float weights beside coremltools' compression metadata, which
`graphpress.backends.coreml.metadata` writes. The program with exact codes that becomes an `.mlpackage` is another form:
it has the ops of Core AI, and `graphpress.backends.coreml.convert` translates them.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from graphpress.backends.coreml.metadata import (
    ACTIVATIONS,
    palettized_entries,
    quantized_entries,
    why_not_palettized,
    why_not_quantized,
    with_pruning,
)
from graphpress.backends.errors import CoreMLExportError, LoweringError
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.ops import REQUIRED, OpDef, Parameter, register_op
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.analysis.facts import QUANTIZERS_CONVERTED
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.facts import Fact
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights import PalettizedWeight

LOWERED_TO_COREML_METADATA = Fact(
    "lowered-to-coreml-metadata", "compressed weights are floats beside the metadata that coremltools reads"
)

_WEIGHTS = ("blockwise_shift_scale", "lut_to_dense", "sparse_to_dense")
_INDEX_BITS = {2: 1, 4: 2, 8: 3, 16: 4, 64: 6, 256: 8}
_SUFFIXES = ("_folded", "_quantized", "_indices", "_lut", "_codes", "_nonzero_data", "_mask")


@register_pass
@frozen
class LowerToCoremlMetadata(Pass):
    """Lower compressed weights to floats with coremltools' metadata, and quantized activations to torch's own ops.

    Weights are exact: the float is the dequantized code, by the formula of `graphpress.ir.reference`. torch multiplies
    activations by the reciprocal of the scale where the reference divides, so a value at a rounding tie may get the
    other code.
    """

    name = "lower-to-coreml-metadata"
    needs = frozenset({QUANTIZERS_CONVERTED})
    gives = frozenset({LOWERED_TO_COREML_METADATA})
    effect = CLOSE(rtol=1e-2, atol=1e-6)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit every node once; say everything that is refused in one error."""
        refused: list[str] = []
        for node in graph.nodes:
            if node.op.dialect != "quant":
                continue
            context.node = node
            try:
                replaced = self._lowered(node, rewriter)
            except LoweringError as error:
                refused.append(str(error))
                continue
            if replaced is not None:
                rewriter.replace(node, replaced)
                context.count(node.op.short_name)
        context.node = None
        if refused:
            lines = "".join(f"\n  {line}" for line in refused)
            raise CoreMLExportError(f"coremltools' compression metadata cannot describe {len(refused)} tensors:{lines}")
        for node in reversed(graph.nodes):
            if node.op.dialect == "quant" and node.is_dead:
                rewriter.erase(node)
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)

    def _lowered(self, node: Node, rewriter: Rewriter) -> Value | None:
        name = node.op.short_name
        if name == "quantize":
            _check_activation(node)
            return None  # goes with its dequantize
        if name == "dequantize":
            return _activation(node, rewriter)
        if name not in _WEIGHTS:
            raise _refusal(node, f"quant.{name} is not there in the metadata")
        if name != "blockwise_shift_scale" and all(_goes_with(use.user) for use in node.result.uses):
            return None  # goes with its scale, or its places
        return _weight(node, rewriter)


def _weight(node: Node, rewriter: Rewriter) -> Value:
    """The dense weight beside what describes it."""
    table, dense = _table_of(node), _dense(node.result)
    if table is not None:
        stored = _palettized(node, table)
        reason = why_not_palettized(stored)
        entries = {} if reason else palettized_entries(stored)
        bits = stored.n_bits
    elif node.op.short_name == "sparse_to_dense":
        reason, entries, bits = "", {}, node.result.tensor_type.dtype.bits
    else:
        dtype, type = node.attribute("dtype"), node.result.tensor_type
        scale = node.operands["scale"].tensor_type.dtype
        reason, bits = why_not_quantized(dtype, node.operand("minval") is not None, scale), dtype.bits
        entries = (
            {}
            if reason
            else quantized_entries(
                _data(node, "scale"), _optional(node, "zero_point"), dtype, type.rank, type.dtype.torch_dtype
            )
        )
    sparse = _sparse_of(node)
    if sparse is not None and not reason:
        entries = with_pruning(entries, dense, _data(sparse, "mask").bool(), bits)
    if reason:
        raise _refusal(node, reason)
    root = root_constant(node.result)
    base = root.name if root is not None else node.name
    for suffix in _SUFFIXES:
        base = base.removesuffix(suffix)
    weight = rewriter.add_constant(base, dense, "parameter")
    tensors = [rewriter.add_constant(f"{base}_{key}", tensor) for key, tensor in entries.items()]
    return rewriter.insert_before(
        node,
        "coreml_metadata.described",
        {"weight": weight, "entries": tensors},
        {"keys": tuple(entries)},
        name=node.name,
    ).result


def _palettized(node: Node, table: Node) -> PalettizedWeight:
    lut, rank = _data(table, "lut"), node.result.tensor_type.rank
    scaled = node.op.short_name == "blockwise_shift_scale"
    if _sparse_of(node) is not None:  # one table for the kept elements
        lut = lut.reshape((1,) * rank + lut.shape[-2:])
    return PalettizedWeight(
        _data(table, "indices"),
        lut,
        table.attribute("axis"),
        _INDEX_BITS[lut.shape[-2]],
        node.result.tensor_type.dtype.torch_dtype,
        _ranked(_data(node, "scale"), rank) if scaled else None,
        _ranked(_optional(node, "zero_point"), rank) if scaled else None,
        _optional(node, "minval") if scaled else None,
    )


def _ranked(tensor: Any, rank: int) -> Any:
    if tensor is None or tensor.ndim:
        return tensor
    return tensor.reshape((1,) * rank)


def _activation(node: Node, rewriter: Rewriter) -> Value:
    quantize = node.operands["input"].node
    if quantize is None or quantize.op.name != "quant.quantize":
        raise _refusal(node, "codes that come from elsewhere are not there in torch's own ops")
    _check_activation(quantize)
    data = quantize.operands["input"]
    scale = _data(node, "scale").reshape(-1)[0].item()
    zero_point = _optional(node, "zero_point")
    attributes = {
        "scale": scale,
        "zero_point": 0 if zero_point is None else int(zero_point.reshape(-1)[0].item()),
        "dtype": node.attribute("dtype"),
    }
    return rewriter.insert_before(
        node, "coreml_metadata.quantize_dequantize", {"input": data}, attributes, name=node.name
    ).result


def _check_activation(node: Node) -> None:
    dtype: DType = node.attribute("dtype")
    if dtype not in ACTIVATIONS:
        names = ", ".join(each.long_name for each in ACTIVATIONS)
        raise _refusal(node, f"activations of {dtype.long_name} are not there in Core ML; accepted: {names}")
    if node.operand("minval") is not None:
        raise _refusal(node, "minimum values are not there in Core ML; use the zero-point formulation")
    if _data(node, "scale").numel() > 1:
        raise _refusal(node, "activations have one scale; use PerTensorGranularity")
    if any(node.attributes.get(name) is not None for name in ("quant_min", "quant_max")):
        raise _refusal(node, "activations use every code of their dtype; use the scheme 'symmetric'")


def _table_of(node: Node) -> Node | None:
    """The lookup that the weight `node` makes is of, perhaps for kept elements only."""
    for _ in range(3):
        if node.op.short_name == "lut_to_dense":
            return node
        made = node.operands["input" if node.op.short_name == "blockwise_shift_scale" else "values"].node
        if made is None or made.op.short_name not in _WEIGHTS:
            return None
        node = made
    return None


def _sparse_of(node: Node) -> Node | None:
    """What puts the kept elements of the weight that `node` makes in their places."""
    made = node.operands["input"].node if node.op.short_name == "blockwise_shift_scale" else node
    return made if made is not None and made.op.short_name == "sparse_to_dense" else None


def _goes_with(user: object) -> bool:
    return isinstance(user, Node) and user.op.name in ("quant.blockwise_shift_scale", "quant.sparse_to_dense")


def _dense(value: Value) -> torch.Tensor:
    if value.node is None:
        assert value.constant is not None
        return value.constant.tensor
    made: torch.Tensor = evaluate_node(value.node, _dense)[value.index]
    return made


def _data(node: Node, name: str) -> torch.Tensor:
    value = node.operands[name]
    if value.constant is None:
        raise _refusal(node, f"its {name} is computed; run fold-constants first")
    tensor: torch.Tensor = value.constant.tensor
    return tensor


def _optional(node: Node, name: str) -> torch.Tensor | None:
    return None if node.operand(name) is None else _data(node, name)


def _refusal(node: Node, reason: str) -> LoweringError:
    return LoweringError(f"{node.name} ({node.location}): {reason}")


def quantize_dequantize(input: Tensor, scale: float, zero_point: int, dtype: torch.dtype) -> Tensor:
    """`input` quantized and dequantized by torch's own ops: those that coremltools knows in a trace, or in an exported
    program where one is being made.
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


register_op(
    OpDef(
        "coreml_metadata.described",  # a float weight, and the tensors that describe it
        (Parameter("weight"), Parameter("entries"), Parameter("keys", REQUIRED, keyword_only=True)),
        evaluate=lambda weight, entries, keys: weight,
        infer=lambda types, attributes: [types["weight"]],
    )
)
register_op(
    OpDef(
        "coreml_metadata.quantize_dequantize",
        (
            Parameter("input"),
            *(Parameter(name, REQUIRED, keyword_only=True) for name in ("scale", "zero_point", "dtype")),
        ),
        evaluate=_evaluate,
        infer=lambda types, attributes: [types["input"]],
    )
)
