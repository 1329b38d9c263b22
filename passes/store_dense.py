"""Compressed weights as dense tensors, for models that remain in torch."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.graph import Constant, Graph, Node
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass

_SUFFIXES = ("_folded", "_nonzero_data", "_indices", "_lut", "_codes")


@register_pass
@frozen
class StoreDense(Pass):
    """Replace fake-quantized, palettized and sparse weights by the tensors that they represent.

    Exact, because the tensors are those that the ops compute. Fake-quantizers of activations stay, except those without
    parameters, which saw no data and are identities.
    """

    effect = CLOSE(rtol=0, atol=0)
    is_idempotent = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Evaluate the nodes of compressed weights, in order."""
        for node in graph.nodes_of(lambda op: op.name.startswith("quant.")):
            context.node = node
            if node.op.name == "quant.fake_quantize" and node.operand("scale") is None:
                context.report(node, "no data reached this quantizer, so its value is not quantized")
                rewriter.replace(node, node.operands["input"])
                continue
            read = [value.constant for _, _, value in node.operand_values()]
            constants = [constant for constant in read if constant is not None and not constant.is_mutated]
            if len(constants) == len(read):
                self._store(node, constants, rewriter)
                context.count("weights")

    def _store(self, node: Node, read: list[Constant], rewriter: Rewriter) -> None:
        """Replace `node` by its value: the data of its input, if nothing else reads that, so that its names remain."""
        (dense,) = evaluate_node(node, lambda value: value.constant.tensor if value.constant is not None else None)
        weight, dense = read[0], dense.detach()
        is_alone = all(use.user is node for use in weight.value.uses)
        if node.op.name == "quant.fake_quantize" and is_alone and dense.dtype == weight.tensor.dtype:
            rewriter.replace_constant(weight, dense)
            rewriter.replace(node, weight.value)
            read = read[1:]
        else:
            rewriter.replace(node, rewriter.add_constant(_name(weight), dense, type=node.result.tensor_type))
        for constant in dict.fromkeys(read):
            if not constant.value.use_count:
                rewriter.erase_constant(constant)


def _name(constant: Constant) -> str:
    """The name of the parameter that a constant is derived from, for its dense tensor."""
    root = root_constant(constant.value) or constant
    name = root.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return f"{name}_dense"
