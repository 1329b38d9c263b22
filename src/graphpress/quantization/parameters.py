"""Transfer of parameters and ranges from a prepared module back to its graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import frozen
from torch import Tensor, nn

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, Node
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.tensors import lazy_copy
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.facts import CONSTANTS_FOLDED, QUANTIZERS_INSERTED
from graphpress.passes.analysis.weights import dense_weight
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.weights.quantize import stored_scale
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.retyping import retype


def read_back(graph: Graph, module: nn.Module) -> None:
    """Set the constants of `graph` to the current tensors of `module`, which was emitted from it.

    States, buffers that the graph writes to, get copies of their initial values. Types follow a cast of `module`, which
    is one to a floating dtype.

    Raises:
        CastError: if the ops of the graph do not take the dtype that `module` was cast to.
    """
    keep_states(graph)
    cast: dict[DType, DType] = {}
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    for constant in graph.constants.values():
        is_state = constant.is_mutated and constant.kind != "parameter"
        tensor = None if is_state else _tensor_of(constant, tensors)
        if tensor is not None:
            tensor = tensor.detach().clone() if constant.is_mutated else tensor.detach()
            constant._tensor, constant.digest = tensor, None
            if tensor.dtype != constant.type.dtype.torch_dtype:
                cast[constant.type.dtype] = DType.of(tensor.dtype)
                constant.value.type = TensorType.of(tensor)
    if cast:
        retype(graph, cast)


def keep_states(graph: Graph) -> None:
    """Copy the initial values of the states of `graph`, which other models may share and change."""
    for constant in graph.constants.values():
        if constant.is_mutated and constant.kind != "parameter":
            constant._tensor = lazy_copy(constant.tensor)


def _tensor_of(constant: Constant, tensors: Mapping[str, Tensor]) -> Tensor | None:
    for name in (constant.name, *constant.names, constant.name.replace(".", "_")):
        if name in tensors:
            return tensors[name].cpu()
    return None


@frozen
class AttachParameters(Pass):
    """Add the parameters of each fake-quantizer's module to the graph, as constants.

    Attributes:
        quantizers: the modules by quantizer name.
    """

    needs = frozenset({QUANTIZERS_INSERTED, CONSTANTS_FOLDED})

    quantizers: Mapping[str, FakeQuantizeImplBase]

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit every fake-quantizer once; nodes of one quantizer and dtype share constants."""
        shared: dict[tuple[str, DType], dict[str, object]] = {}
        for node in graph.nodes_of(lambda op: op.name == "quant.fake_quantize"):
            context.node = node
            quantizer = self.quantizers[node.attribute("quantizer")]
            key = quantizer.name, node.result.tensor_type.dtype
            operands = shared.get(key)
            if operands is None:
                operands = shared[key] = _constants(node, quantizer, rewriter, context)
            for name, value in operands.items():
                rewriter.set_operand(node, name, value)
            context.count("calibrated" if operands else "without data")


def _constants(
    node: Node, quantizer: FakeQuantizeImplBase, rewriter: Rewriter, context: PassContext
) -> dict[str, object]:
    data = dense_weight(node.operands["input"])
    with torch.no_grad():
        qparams = quantizer.qparams(data)
    if qparams is None:
        return {}
    scale, *rest = qparams
    stored = stored_scale(scale, quantizer.spec, node.result.tensor_type.dtype.torch_dtype)
    if data is not None and stored.dtype is torch.float32 and quantizer.spec.scale_dtype is torch.float16:
        context.report(node, "its scales remain float32: they or their products with codes exceed the range of float16")
    named = zip(("scale", "zero_point", "minval", "offset"), (stored, *rest, quantizer.code_offset), strict=True)
    return {
        name: rewriter.add_constant(f"{quantizer.name}_{name}", tensor.detach().cpu().clone())
        for name, tensor in named
        if tensor is not None
    }
