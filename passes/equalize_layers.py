"""Cross-layer equalization of weight ranges before quantization.

If only positively homogeneous, channelwise ops f (``f(s x) = s f(x)`` for s > 0, such as relu) are between two layers,
the first may scale its output channel c by ``1 / s_c`` and the second its input channel c by ``s_c``
(Nagel et al., "Data-free quantization through weight equalization and bias correction", arXiv 1906.04721,
section 4.1)::

    W2 f(W1 x + b1)  =  (W2 S) f(S^-1 W1 x + S^-1 b1)

With r1_c the largest magnitude of the weights that produce channel c, and r2_c of those that read it,
``s_c = sqrt(r1_c / r2_c)`` gives both the range ``sqrt(r1_c r2_c)``, the optimum for a scale that channels share.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import constant_tensor, is_constant
from graphpress.passes.analysis.facts import BATCH_NORM_FOLDED, LAYERS_EQUALIZED
from graphpress.passes.analysis.layers import Layer, layer_of
from graphpress.passes.analysis.weights import is_compressed, is_sparse
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass

# Positively homogeneous and channelwise: in each of them channel c of the result comes from channel c of the input.
_POOLS = {f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for d in (1, 2, 3)}
_HOMOGENEOUS = _POOLS | {"relu", "leaky_relu", "prelu", "clone", "upsample_bilinear2d"}
_HOMOGENEOUS |= {"dropout", "alpha_dropout", "feature_dropout"} | {f"upsample_nearest{d}d" for d in (1, 2, 3)}
# Larger factors would cost digits of float32 activations.
LARGEST_FACTOR = 2.0**16


@register_pass
@frozen
class EqualizeLayers(Pass):
    """Scale the channels between consecutive layers so that their weights use the same range on both sides.

    Sound because only ops that commute with a positive scale are between the layers. Like a folded norm, a scaled
    weight is an expression over the original parameter and can still be trained. Weights that other ops read too and
    those in compressed form are skipped, with a reason.

    Attributes:
        iterations: maximum number of rounds over all pairs; in a chain, a pair changes the ranges of the next.
        tolerance: stop when no factor is farther from 1 than this.
    """

    needs = frozenset({BATCH_NORM_FOLDED})
    gives = frozenset({LAYERS_EQUALIZED})
    effect = CLOSE(rtol=1e-4, atol=1e-5)

    iterations: int = 20
    tolerance: float = 1e-3

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Find the pairs, compute all factors, then apply them to the weights."""
        pairs: list[_Pair] = []
        ranges: dict[Node, Tensor] = {}
        for node in graph.nodes:
            first = layer_of(node)
            if first is None:
                continue
            context.node = node
            found = _next_layer(first)
            if isinstance(found, str):
                context.report(node, found)
                continue
            pairs.append(_Pair(first, found))
            for layer in (first, found):
                if layer.node not in ranges:
                    ranges[layer.node] = _ranges(layer)
        factors = {pair: torch.ones(pair.channels, dtype=torch.float64) for pair in pairs}
        for _ in range(self.iterations):
            largest = max((_equalize(pair, ranges, factors) for pair in pairs), default=0.0)
            if largest <= self.tolerance:
                break
        for pair, factor in factors.items():
            context.node = pair.first.node
            if bool((factor != 1).any()):
                _write(pair, factor, rewriter)
                context.count("pairs")


@frozen(eq=False)
class _Pair:
    first: Layer
    second: Layer

    @property
    def channels(self) -> int:
        type = self.first.node.result.tensor_type
        return int(type.shape[self.first.out_features_axis(type.rank)])  # type: ignore[arg-type]


def _next_layer(first: Layer) -> Layer | str:
    """The only layer that reads the result of `first`, through homogeneous ops; else the reason why there is none."""
    reason = _unusable(first)
    if reason:
        return reason
    value = first.node.result
    while True:
        if value.use_count != 1 or not isinstance(value.uses[0].user, Node):
            return f"{value.name} is read by {'several ops' if value.use_count > 1 else 'no op'}"
        user = value.uses[0].user
        second = layer_of(user)
        if second is not None and value.uses[0].operand == "input":
            break
        if not _passes_scale(user, value):
            return f"{user.name} after it does not commute with a scale"
        value = user.result
    rank = value.tensor_type.rank
    if first.out_features_axis(first.node.result.tensor_type.rank) != second.in_features_axis(rank):
        return f"{second.node.name} sums over an axis other than the channels"
    return _unusable(second) or second


def _passes_scale(node: Node, value: Value) -> bool:
    if node.op.dialect != "aten" or node.op.family not in _HOMOGENEOUS or len(node.results) != 1:
        return False
    if node.operand("input") is not value and node.operand("self") is not value:
        return False
    if node.attributes.get("train"):
        return False
    return bool(node.result.tensor_type.rank == value.tensor_type.rank)


def _unusable(layer: Layer) -> str | None:
    name = layer.node.name
    for operand in ("weight", "bias"):
        value = layer.node.operand(operand)
        if value is None:
            continue
        if not is_constant(value):
            return f"the {operand} of {name} is computed by the model, not a constant"
        if operand == "weight" and (is_compressed(value) or is_sparse(value)):
            return f"the weight of {name} is stored in compressed form"
        if operand == "weight" and value.use_count != 1:
            return f"the weight of {name} is read by other ops too"
    return None


def _ranges(layer: Layer) -> Tensor:
    """The largest magnitude between each output and each input of its group: [outputs, inputs of a group], float64."""
    weight = layer.node.operand("weight")
    assert weight is not None
    magnitude = constant_tensor(weight).double().abs()
    if magnitude.ndim > 2:
        magnitude = magnitude.flatten(2).amax(2)
    if layer.is_transposed:  # [inputs, outputs of a group] becomes [outputs, inputs of a group]
        groups = layer.groups
        magnitude = magnitude.reshape(groups, -1, magnitude.shape[1]).transpose(1, 2).flatten(0, 1)
    return magnitude


def _equalize(pair: _Pair, ranges: Mapping[Node, Tensor], factors: dict[_Pair, Tensor]) -> float:
    """Equalize the ranges of a pair; return the largest distance of a new factor from 1."""
    first, second = ranges[pair.first.node], ranges[pair.second.node]
    groups, inputs = pair.second.groups, second.shape[1]
    makes, reads = first.amax(1), second.reshape(groups, -1, inputs).amax(1).flatten()
    factor = (makes / reads).sqrt()
    factor = torch.where((makes > 0) & (reads > 0), factor, torch.ones_like(factor))
    factor = (factors[pair] * factor).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR) / factors[pair]
    factors[pair] *= factor
    first /= factor[:, None]
    second *= factor.reshape(groups, 1, inputs).expand(groups, len(second) // groups, inputs).reshape(second.shape)
    return float((factor - 1).abs().max())


def _write(pair: _Pair, factor: Tensor, rewriter: Rewriter) -> None:
    first, second = pair.first, pair.second
    dtype = first.node.result.tensor_type.dtype.torch_dtype
    name = f"{first.node.name}_{second.node.name}"
    down = rewriter.add_constant(f"{name}_factor", (1 / factor).to(dtype), "buffer")
    up = rewriter.add_constant(f"{name}_inverse_factor", factor.to(dtype), "buffer")
    out = {"axis": first.out_axis} | ({"groups": first.groups} if first.is_transposed else {})
    _scale(first.node, "weight", down, out, rewriter)
    if first.node.operand("bias") is not None:
        _scale(first.node, "bias", down, {"axis": 0}, rewriter)
    into: dict[str, int] = {"axis": 0} if second.is_transposed else {"axis": 1, "groups": second.groups}
    _scale(second.node, "weight", up, into, rewriter)


def _scale(node: Node, operand: str, factor: Value, attributes: Mapping[str, int], rewriter: Rewriter) -> None:
    operands = {"input": node.operand(operand), "factor": factor}
    made = rewriter.insert_before(
        node, "fold.scale_axis", operands, dict(attributes), name=f"{node.name}_equalized_{operand}"
    )
    rewriter.set_operand(node, operand, made.result)
