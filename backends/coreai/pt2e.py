"""Programs of torchao's `convert_pt2e` as programs in Core AI's ops, which both backends convert."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.export import ExportedProgram

from graphpress.backends import exporting
from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.errors import LoweringError
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import is_constant, root_constant
from graphpress.passes.analysis.facts import CANONICAL, QUANTIZERS_CONVERTED
from graphpress.passes.dce import Dce
from graphpress.passes.framework import Pipeline
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights.quantize import code_bounds

_DIALECT = "quantized_decomposed"
_STORED = (DType.INT8, DType.UINT8)
_WIDE = (DType.INT16, DType.UINT16, DType.INT32)
_OPS = frozenset(
    f"{_DIALECT}.{op}"
    for each in ("quantize", "dequantize")
    for op in (f"{each}_per_tensor", f"{each}_per_tensor.tensor", f"{each}_per_channel")
)


def with_stored_codes(program: ExportedProgram) -> ExportedProgram:
    """Return `program` with Core AI's ops in place of those of `convert_pt2e`, or itself if it has none.

    Raises:
        LoweringError: for values that Core AI cannot store; names the op.
        MissingDependencyError: if the package of Core AI's ops is not installed.
        ConversionError: if torch cannot trace the result.
    """
    if not any(getattr(node.target, "namespace", "") == _DIALECT for node in program.graph.nodes):
        return program
    pipeline = Pipeline(RaiseFromPt2e(), Dce(), LowerToCoreai(), assume=[CANONICAL, QUANTIZERS_CONVERTED])
    return exporting.rewritten(program, pipeline, "in Core AI's ops")


@register_pass
@frozen
class RaiseFromPt2e(Pass):
    """Raise the quantize and dequantize ops of `convert_pt2e` to the `quant` dialect.

    Constants become codes: those of 8 bits are stored with their scale, in 4 bits if the range of the op allows it;
    wider ones, such as the int32 of biases, are dequantized. Torch quantizes by a product with the reciprocal of the
    scale, the `quant` dialect by a quotient, so values at rounding ties may get the next code.
    """

    name = "raise-from-pt2e"
    effect = LOSSY(against="the same codes, except at rounding ties")
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit every node once, in order, so that quantized constants are constants where they are dequantized."""
        raising = _Raising(rewriter)
        for node in graph.nodes_of(lambda op: op.dialect == _DIALECT):
            context.node = node
            rewriter.replace(node, raising.raised(node))
            context.count(node.op.short_name)
        for constant in list(graph.constants.values()):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)


class _Raising:
    """Builds `quant` ops; equal parameters become one constant."""

    def __init__(self, rewriter: Rewriter) -> None:
        self._rewriter = rewriter
        self._made: dict[Any, Value] = {}

    def raised(self, node: Node) -> Value:
        """Return the value that replaces the result of `node`."""
        if node.op.name not in _OPS:
            raise LoweringError(
                f"{node.name} ({node.location}): no backend takes {node.op.name}; accepted: {', '.join(sorted(_OPS))}"
            )
        data, dtype = node.operands["input"], DType.of(node.attribute("dtype"))
        is_quantize = node.op.short_name.startswith("quantize")
        if is_constant(data) and (is_quantize or dtype in _WIDE):
            return self._evaluated(node)
        if dtype not in _STORED:
            wide = ", ".join(each.long_name for each in _WIDE)
            raise LoweringError(
                f"{node.name} ({node.location}): {node.op.name} has computed codes of {dtype.long_name}; accepted: "
                f"int8 and uint8, and for constants also {wide}"
            )
        if is_quantize:
            bounds = code_bounds(dtype, node.attribute("quant_min"), node.attribute("quant_max"), counts_up=False)
            operands = {"input": data, **self._parameters(node, dtype, node.name)}
            return self._inserted(node, "quant.quantize", operands, {"dtype": dtype, **bounds})
        if is_constant(data):
            return self._weight(node, dtype)
        operands = {"input": data, **self._parameters(node, dtype, node.name)}
        return self._inserted(node, "quant.dequantize", operands, {"dtype": dtype, "output_dtype": _type(node).dtype})

    def _evaluated(self, node: Node) -> Value:
        return self._rewriter.add_constant(f"{_base(node)}_{node.op.short_name}", _known(node.result))

    def _weight(self, node: Node, dtype: DType) -> Value:
        """Return the dequantized value of constant codes, which are stored once for all nodes that read them."""
        data = node.operands["input"]
        codes = _known(data)
        dtype = _narrowest(node, codes, dtype)
        key = (data, dtype)
        if key not in self._made:
            type = TensorType(dtype, tuple(codes.shape))
            is_stored = data.constant is not None and data.tensor_type.dtype is dtype
            name = f"{_base(node)}_{dtype.value}"
            self._made[key] = data if is_stored else self._rewriter.add_constant(name, codes, type=type)
        operands = {"input": self._made[key], **self._parameters(node, dtype, _base(node))}
        attributes = {"dtype": dtype, "output_dtype": _type(node).dtype}
        return self._inserted(node, "quant.blockwise_shift_scale", operands, attributes)

    def _parameters(self, node: Node, dtype: DType, base: str) -> dict[str, Value]:
        """Return scale and zero point as constants, in the form of blocks; a zero point of 0 is left out."""
        scale, zero_point = _scale(node), _zero_point(node)
        made = {"scale": self._constant(f"{base}_scale", _along_axis(node, scale.float()))}
        if bool(zero_point.any()):
            _require_codes(node, zero_point, dtype)
            made["zero_point"] = self._constant(f"{base}_zero_point", _along_axis(node, zero_point.float()))
        return made

    def _constant(self, name: str, tensor: Tensor) -> Value:
        key = (tuple(tensor.shape), *tensor.reshape(-1).tolist())
        if key not in self._made:
            self._made[key] = self._rewriter.add_constant(name, tensor)
        return self._made[key]

    def _inserted(self, node: Node, op: str, operands: dict[str, Value], attributes: dict[str, Any]) -> Value:
        return self._rewriter.insert_before(node, op, operands, attributes, name=node.name).result


def _type(node: Node) -> TensorType:
    return node.result.tensor_type


def _base(node: Node) -> str:
    """Return the name of the parameter that `node` reads."""
    root = root_constant(node.result)
    return node.name if root is None else root.name.partition("_quantize_per_")[0]


def _known(value: Value) -> Tensor:
    """Return the tensor of a value that depends on constants only."""
    if value.constant is not None:
        return value.constant.tensor.detach()
    assert value.node is not None
    tensor: Tensor = evaluate_node(value.node, _known)[value.index]
    return tensor


def _scale(node: Node) -> Tensor:
    return _parameter(node, "scales" if _is_per_channel(node) else "scale")


def _zero_point(node: Node) -> Tensor:
    return _parameter(node, "zero_points" if _is_per_channel(node) else "zero_point")


def _is_per_channel(node: Node) -> bool:
    return node.op.short_name.endswith("per_channel")


def _parameter(node: Node, name: str) -> Tensor:
    """Return a parameter of quantization, which the node has as a number or as a constant."""
    value = node.operand(name)
    if value is None:
        number = node.attribute(name)
        return torch.zeros(()) if number is None else torch.tensor(number)
    if not is_constant(value):
        raise LoweringError(
            f"{node.name} ({node.location}): the {name} of {node.op.name} is computed at run time; accepted: a "
            "constant, as of static quantization"
        )
    return _known(value)


def _along_axis(node: Node, parameter: Tensor) -> Tensor:
    """Return a parameter without axes, or in the rank of the data, with one entry per index along the axis."""
    if not _is_per_channel(node) or not parameter.ndim:
        return parameter.reshape(())
    along = [1] * node.operands["input"].tensor_type.rank
    along[node.attribute("axis")] = -1
    return parameter.reshape(along)


def _require_codes(node: Node, zero_point: Tensor, dtype: DType) -> None:
    low, high = float(zero_point.min()), float(zero_point.max())
    if low < dtype.minimum or high > dtype.maximum or bool((zero_point != zero_point.round()).any()):
        raise LoweringError(
            f"{node.name} ({node.location}): {node.op.name} has zero points from {low:g} to {high:g}; accepted: codes "
            f"of {dtype.long_name}, {dtype.minimum:g} to {dtype.maximum:g}"
        )


def _narrowest(node: Node, codes: Tensor, dtype: DType) -> DType:
    """Return the 4-bit type of codes whose range is declared to be in it, else their own type."""
    small = DType.INT4 if dtype is DType.INT8 else DType.UINT4
    ends = [node.attribute("quant_min"), node.attribute("quant_max"), *_zero_point(node).reshape(-1).tolist()]
    ends += [] if not codes.numel() else [int(end) for end in codes.aminmax()]
    return small if all(small.minimum <= end <= small.maximum for end in ends) else dtype
