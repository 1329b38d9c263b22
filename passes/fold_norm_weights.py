"""Folding of the weights and biases of norms into the linear layers that read them.

A layer norm or RMS norm ends with a scale and a shift of each channel, which a linear layer can apply itself::

    W (g * n(x) + h) + b  =  (W diag(g)) n(x) + (b + W h)

The norm that remains has no weight: its result is what an orthogonal rotation commutes with (Ashkboos et al., "QuaRot",
arXiv 2404.00456, section 3), and its channels differ less in range. Norms written out in single ops multiply by their
weight in an op of its own, which disappears.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.channel_affine import ChannelAffine, channel_affine
from graphpress.passes.analysis.channel_flow import ChannelReader, channel_flow
from graphpress.passes.analysis.constants import is_constant
from graphpress.passes.analysis.facts import BATCH_NORM_FOLDED, NORM_WEIGHTS_FOLDED
from graphpress.passes.analysis.weights import is_compressed, is_sparse
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights.scaling import FoldError


@register_pass
@frozen
class FoldNormWeights(Pass):
    """Fold the weight and bias of each norm into the linear layers that read it.

    Sound because both are linear in the channels. So are products and sums with a vector over the channels, which
    norms end with where a model writes them out. A norm keeps its weight, with a reason in the report, if anything else
    than linear layers with constant, dense weights reads its result. Like a folded batch norm, the new weight is an
    expression over the original parameters and can still be trained.

    Attributes:
        split_shared: also fold into weights that other ops use, such as those of an embedding; these are then stored
            once per reader.
    """

    needs = frozenset({BATCH_NORM_FOLDED})
    gives = frozenset({NORM_WEIGHTS_FOLDED})
    effect = CLOSE(rtol=1e-4, atol=1e-5)
    is_idempotent = True

    split_shared: bool = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit the last op of a norm first, so that a sum with the bias does not keep the weight from the layers."""
        for node in reversed(graph.nodes):
            affine = channel_affine(node)
            if affine is None or (affine.scale is None and affine.shift is None):
                continue
            context.node = node
            try:
                readers = self._readers(graph, affine)
            except FoldError as reason:
                context.count("left")
                context.report(node, str(reason))
                continue
            _fold(affine, readers, rewriter)
            context.count("folded")

    def _readers(self, graph: Graph, affine: ChannelAffine) -> Sequence[ChannelReader]:
        flow = channel_flow(graph, affine.node.result)
        if flow.reasons:
            raise FoldError("; ".join(flow.reasons))
        if not flow.readers:
            raise FoldError("nothing reads it")
        for reader in flow.readers:
            node = reader.node
            require_linear(node, reader.operand, affine.node)
            others = [user for user in reader.weight.users if user is not node]
            if others and not self.split_shared:
                raise FoldError(f"{others[0].name} uses the weight of {node.name} too")
            if affine.shift is not None:
                _require_bias(reader)
            if affine.shift is not None and not reader.is_moved_only:
                raise FoldError(f"its bias is multiplied on the way to {node.name}")
        return flow.readers


def _require_bias(reader: ChannelReader) -> None:
    node = reader.node
    if reader.bias is None:
        raise FoldError(f"{node.name} has no bias that could hold that of the norm")
    bias = node.operand(reader.bias)
    if bias is not None and not (is_constant(bias) and bias.tensor_type.rank == 1):
        raise FoldError(f"the bias of {node.name} is not a constant with a number for each feature")
    if node.op.family == "addmm" and (node.attribute("alpha") != 1 or node.attribute("beta") != 1):
        raise FoldError(f"{node.name} scales its product or its bias")


def require_linear(node: Node, operand: str, before: Node) -> None:
    """Check that the weight of a linear layer can absorb factors of its channels.

    Raises:
        FoldError: if it is compressed or computed, has a batch norm folded in, or is of another dtype than `before`.
    """
    weight: Value = node.operands[operand]
    if not is_constant(weight):
        raise FoldError(f"the weight of {node.name} is computed by the model, not a constant")
    if is_compressed(weight) or is_sparse(weight):
        raise FoldError(f"the weight of {node.name} is stored in compressed form")
    if has_batch_norm(weight):
        raise FoldError(f"a batch norm is folded into {node.name}")
    ours, theirs = before.result.tensor_type.dtype, weight.tensor_type.dtype
    if ours is not theirs:
        raise FoldError(f"it works in {ours.long_name}, {node.name} in {theirs.long_name}")


def has_batch_norm(weight: Value) -> bool:
    """Return True if `weight` has the factors of a folded batch norm, which change in training."""
    if weight.node is None:
        return False
    if weight.node.op.name == "fold.batch_norm_factor":
        return True
    return any(has_batch_norm(read) for _, _, read in weight.node.operand_values())


def vector_at(value: Value, reader: ChannelReader, rewriter: Rewriter) -> Value:
    """Return the elements of a vector over channels as `reader` sees the channels."""
    node = reader.node
    if value.tensor_type.rank > 1:
        value = rewriter.insert_before(node, "aten.reshape", {"self": value}, {"shape": (-1,)}).result
    if reader.keeps_order:
        return value
    places = rewriter.add_constant(f"{node.name}.channels", reader.channels.to(torch.int64), "literal")
    return rewriter.insert_before(node, "aten.index_select", {"self": value, "index": places}, {"dim": 0}).result


def scale_inputs(reader: ChannelReader, factor: Value, rewriter: Rewriter) -> None:
    """Multiply the weights that read input feature i by ``factor[i]``."""
    operands, attributes = {"input": reader.weight, "factor": factor}, {"axis": reader.axis}
    name = f"{reader.node.name}_weight"
    made = rewriter.insert_before(reader.node, "fold.scale_axis", operands, attributes, name=name)
    rewriter.set_operand(reader.node, reader.operand, made.result)


def _shift(reader: ChannelReader, shift: Value, rewriter: Rewriter) -> None:
    """Add to the bias what a constant `shift` of the input features adds to the result."""
    node, weight = reader.node, reader.weight
    assert reader.bias is not None
    if reader.axis == 0:
        weight = rewriter.insert_before(node, "aten.t", {"self": weight}).result
    operands = {"weight": weight, "shift": shift, "bias": node.operand(reader.bias)}
    made = rewriter.insert_before(node, "fold.input_shift_bias", operands, name=f"{node.name}_bias")
    rewriter.set_operand(node, reader.bias, made.result)


def _fold(affine: ChannelAffine, readers: Sequence[ChannelReader], rewriter: Rewriter) -> None:
    for reader in readers:
        if affine.shift is not None:
            _shift(reader, vector_at(affine.shift, reader, rewriter), rewriter)
        if affine.scale is not None:
            scale_inputs(reader, vector_at(affine.scale, reader, rewriter), rewriter)
        reader.node.location |= affine.node.location
    if affine.input is not None:
        rewriter.replace(affine.node, affine.input)
        return
    for name in ("weight", "bias"):
        if affine.node.operand(name) is not None:
            rewriter.set_operand(affine.node, name, None)
