"""Smoothing: scale moved from channels of activations with large values into the weights that read them.

A few channels of the activations of transformers are 20 to 100 times larger than the others, and a scale that all
channels share leaves few codes to the rest. A factor s for each channel between a norm, or a linear layer, and the
linear layers that read it changes no number but those of the activation (Xiao et al., "SmoothQuant",
arXiv 2211.10438)::

    (W diag(s)) (diag(1/s) x)  =  W x        s_j = max|x_j|^a / max|W_j|^(1-a)

``1/s`` goes into the weight and bias of the norm, or into the rows of the layer before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.channel_affine import channel_affine
from graphpress.passes.analysis.channel_flow import ChannelReader, channel_flow
from graphpress.passes.analysis.constants import constant_tensor, is_constant
from graphpress.passes.analysis.facts import BATCH_NORM_FOLDED, LAYERS_SMOOTHED
from graphpress.passes.analysis.layers import layer_of
from graphpress.passes.fold_norm_weights import require_linear, scale_inputs, vector_at
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights.scaling import FoldError

# Larger factors would cost digits of the activations.
LARGEST_FACTOR = 2.0**12


@frozen(eq=False)
class SmoothedReader:
    """A linear layer, or a product with a matrix, whose input is smoothed.

    Attributes:
        node: the name of its node.
        operand: the name of its weight.
        axis: the axis of the weight that it sums over.
        channels: int64, the channel of each of its input features.
    """

    node: str
    operand: str
    axis: int
    channels: Tensor


@frozen(eq=False)
class Smoothing:
    """The factors between a value and the linear layers that read it.

    Attributes:
        source: the name of the node that produces the value.
        factor: the name of the constant that holds s, float, one entry per channel.
        free: bool, per channel: False where the factor must stay 1, since something else reads the channel.
        readers: the linear layers.
    """

    source: str
    factor: str
    free: Tensor
    readers: tuple[SmoothedReader, ...]

    def __str__(self) -> str:
        return f"smoothed into {', '.join(reader.node for reader in self.readers)}"


def smoothing_factor(activation: Tensor, weight: Tensor, strength: float) -> Tensor:
    """Return ``activation^strength / weight^(1 - strength)``, and 1 where either is 0, float64.

    Args:
        activation: the largest magnitude of each channel.
        weight: the largest magnitude of the weights that read it.
        strength: between 0, which evens out the weights, and 1, which evens out the activation.
    """
    activation, weight = activation.double(), weight.double()
    factor = activation.pow(strength) / weight.pow(1 - strength)
    usable = (activation > 0) & (weight > 0) & torch.isfinite(factor)
    return torch.where(usable, factor.clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR), 1.0)


def _numbers(ranges: Mapping[str, Iterable[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, found)) for name, found in ranges.items()}


@register_pass
@frozen
class SmoothLayers(Pass):
    """Place a factor for each channel between norms or linear layers and the linear layers that read them.

    Sound because only ops that are linear in single channels are between the two: those that move elements, products
    with other values, and the sums of an attention over its values. Where key-value heads are repeated, the heads of a
    group share the factors. A channel that anything else reads keeps the factor 1. Weights that other ops use, and
    those in compressed form, are left, with a reason.

    The factors are constants of the result, and weights are expressions over them and the original parameters. They
    are 1 where `ranges` has no entry; a quantizer sets them from calibration data.

    Attributes:
        strength: the exponent of the activation's range, between 0 and 1.
        ranges: the largest magnitude of each channel, by the name of the node that produces the value.
    """

    needs = frozenset({BATCH_NORM_FOLDED})
    gives = frozenset({LAYERS_SMOOTHED})
    effect = CLOSE(rtol=1e-4, atol=1e-5)

    strength: float = field(default=0.5, validator=and_(ge(0), le(1)))
    ranges: Mapping[str, tuple[float, ...]] = field(factory=dict, converter=_numbers)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit norms and layers in order; a layer takes its factors from the first value that reaches it."""
        taken: set[Node] = set()
        for node in list(graph.nodes):
            if not _is_source(node):
                continue
            context.node = node
            try:
                readers, free = _readers(graph, node, taken)
            except FoldError as reason:
                context.count("left")
                context.report(node, str(reason))
                continue
            taken |= {reader.node for reader in readers}
            factor = self._factor(node, readers, free)
            context.report(node, _write(node, readers, free, factor, rewriter))
            context.count("smoothed")

    def _factor(self, node: Node, readers: Sequence[ChannelReader], free: Tensor) -> Tensor:
        found = self.ranges.get(node.name)
        if found is None:
            return torch.ones(len(free), dtype=torch.float64)
        weight = torch.zeros(len(free), dtype=torch.float64)
        for reader in readers:
            magnitude = constant_tensor(reader.weight).double().abs().amax(1 - reader.axis)
            weight.scatter_reduce_(0, reader.channels, magnitude, "amax")
        return torch.where(free, smoothing_factor(torch.tensor(found), weight, self.strength), 1.0)


def _is_source(node: Node) -> bool:
    """Return True for ops that can scale their result: norms, products with a vector, and linear layers."""
    affine = channel_affine(node)
    if affine is not None:
        return affine.input is None or affine.scale is not None
    layer = layer_of(node)
    return layer is not None and layer.spatial == 0


def _readers(graph: Graph, node: Node, taken: set[Node]) -> tuple[Sequence[ChannelReader], Tensor]:
    if layer_of(node) is not None:
        require_linear(node, "weight", node)
        _require_own(node, node.operands["weight"])
        bias = node.operand("bias")
        if bias is not None and not is_constant(bias):
            raise FoldError(f"the bias of {node.name} is computed by the model, not a constant")
    flow = channel_flow(graph, node.result)
    free = ~flow.pinned
    read = torch.zeros_like(free)
    for reader in flow.readers:
        if not bool(free[reader.channels].any()):
            continue
        require_linear(reader.node, reader.operand, node)
        _require_own(reader.node, reader.weight)
        if reader.node in taken or reader.node is node:
            raise FoldError(f"{reader.node.name} takes factors from another value")
        read[reader.channels] = True
    free &= read
    if not bool(free.any()):
        raise FoldError("; ".join(flow.reasons) or "no linear layer reads it")
    return [reader for reader in flow.readers if bool(free[reader.channels].any())], free


def _require_own(node: Node, weight: Value) -> None:
    others = [user for user in weight.users if user is not node]
    if others:
        raise FoldError(f"{others[0].name} uses the weight of {node.name} too")


def _write(node: Node, readers: Sequence[ChannelReader], free: Tensor, factor: Tensor, rewriter: Rewriter) -> Smoothing:
    dtype = node.result.tensor_type.dtype.torch_dtype
    value = rewriter.add_constant(f"{node.name}_smoothing", factor.to(dtype), "buffer")
    assert value.constant is not None
    _unscale(node, value, rewriter)
    for reader in readers:
        scale_inputs(reader, vector_at(value, reader, rewriter), rewriter)
    made = tuple(SmoothedReader(reader.node.name, reader.operand, reader.axis, reader.channels) for reader in readers)
    return Smoothing(node.name, value.constant.name, free, made)


def _unscale(node: Node, factor: Value, rewriter: Rewriter) -> None:
    """Divide the channels of the result of `node` by `factor`, in its weight and bias."""
    inverse = rewriter.insert_before(node, "aten.reciprocal", {"self": factor}).result
    affine = channel_affine(node)
    if affine is not None and affine.input is not None:
        operand = "self" if node.operands["self"] is affine.scale else "other"
        _scale(node, operand, inverse, -1, rewriter)
        return
    if affine is not None and affine.scale is None:
        rewriter.set_operand(node, "weight", inverse)
    else:
        _scale(node, "weight", inverse, 0, rewriter)
    if node.operand("bias") is not None:
        _scale(node, "bias", inverse, 0, rewriter)


def _scale(node: Node, operand: str, factor: Value, axis: int, rewriter: Rewriter) -> None:
    operands = {"input": node.operand(operand), "factor": factor}
    name = f"{node.name}_smoothed_{operand}"
    made = rewriter.insert_before(node, "fold.scale_axis", operands, {"axis": axis}, name=name)
    rewriter.set_operand(node, operand, made.result)
