"""Folding of batch norms into adjacent convolutions and linear layers.

In evaluation a batch norm is the affine map ``f * x + (beta - f * mean)`` with ``f = gamma / sqrt(var + eps)`` for
each channel (arXiv 1502.03167). After a layer that is linear in its weight, the map is applied to weight and bias::

    f * (W x + b - mean) + beta  =  (f W) x + (b - mean) f + beta

and before such a layer, to its input channels, if it does not pad with zeros, which the norm would have shifted::

    W (f x + h) + b  =  (W f) x + (W h + b)        with h = beta - f * mean

The folded tensors are expressions of the `fold` dialect over the original parameters, so that a prepared
model can still train them; `fold-constants` evaluates them. Weights that are compressed already absorb the factor in
their scale, or in a lookup table that belongs to one output channel.
"""

from __future__ import annotations

import torch
from attrs import frozen

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import is_constant
from graphpress.passes.analysis.facts import BATCH_NORM_FOLDED, CANONICAL
from graphpress.passes.analysis.layers import Layer, layer_of
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.weights.scaling import (
    FoldError,
    require_dense,
    require_foldable,
    scaled_weight,
    shifted_bias,
    weight_of_scaled_input,
)


class NormError(GraphpressError, ValueError):
    """A batch norm whose statistics give NaN or infinite values."""


@register_pass
@frozen
class FoldBatchNorm(Pass):
    """Fold each batch norm into the layer before it or after it.

    Sound because both are affine in evaluation. A norm stays, with a reason in the report, if another op reads the
    value between it and the layer, if it normalizes by the statistics of the batch, or if there is padding between
    them.

    Attributes:
        split_shared: also fold into weights that other layers use; these are then stored once per layer.
    """

    needs = frozenset({CANONICAL})
    gives = frozenset({BATCH_NORM_FOLDED})
    effect = CLOSE(rtol=3e-4, atol=1e-5)  # a stored scale is rounded to 16 bits at every fold
    is_idempotent = True

    split_shared: bool = True

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Fold into preceding layers in order, then into following ones in reverse, so that adjacent norms all fold.

        Raises:
            NormError: for statistics that would make NaN or infinite weights and biases.
        """
        before: dict[Node, FoldError] = {}
        for norm in graph.nodes:
            if norm.op.name == "aten.batch_norm":
                context.node = norm
                try:
                    _require_running_statistics(norm)
                    _check_statistics(norm)
                    self._fold_into_previous(norm, rewriter)
                    context.count("folded")
                except FoldError as reason:
                    before[norm] = reason
        left: dict[Node, str] = {}
        for norm in reversed(before):
            context.node = norm
            try:
                _require_running_statistics(norm)
                self._fold_into_next(norm, rewriter)
                context.count("folded")
            except FoldError as after:
                same = str(before[norm]) == str(after)
                left[norm] = str(after) if same else f"{before[norm]}; {after}"
        for norm in reversed(left):
            context.count("left")
            context.report(norm, left[norm])

    def _fold_into_previous(self, norm: Node, rewriter: Rewriter) -> None:
        layer = _layer_before(norm)
        self._check_sharing(layer)
        shape = layer.node.result.tensor_type.shape
        if layer.out_features_axis(len(shape)) != 1:
            raise FoldError(f"it normalizes axis 1, the features of {layer.node.name} are on the last axis")
        require_foldable(layer)
        factor = _factor(norm, layer.node, rewriter)
        weight = scaled_weight(layer, factor, rewriter)
        bias = rewriter.insert_before(
            layer.node,
            "fold.batch_norm_bias",
            {
                "bias": layer.node.operand("bias"),  # first, because the folded bias is named after it
                "factor": factor,
                "running_mean": norm.operand("running_mean"),
                "norm_bias": norm.operand("bias"),
            },
            name=f"{layer.node.name}_bias",
        )
        old = layer.node.operand("weight")
        rewriter.set_operand(layer.node, "weight", weight)
        _erase_unread(old, rewriter)
        rewriter.set_operand(layer.node, "bias", bias.result)
        _merge(layer.node, norm, rewriter)

    def _fold_into_next(self, norm: Node, rewriter: Rewriter) -> None:
        layer = _layer_after(norm)
        self._check_sharing(layer)
        require_dense(layer)
        if layer.is_transposed:
            raise FoldError(f"{layer.node.name} after it is transposed: its borders see fewer of the shifted inputs")
        if layer.has_padding:
            raise FoldError(f"{layer.node.name} after it pads with zeros, which the norm would move")
        rank = norm.result.tensor_type.rank
        if layer.in_features_axis(rank) != 1:
            raise FoldError(f"it normalizes axis 1, {layer.node.name} after it sums over the last axis")
        factor = _factor(norm, layer.node, rewriter)
        shift = rewriter.insert_before(
            layer.node,
            "fold.batch_norm_bias",
            {
                "factor": factor,
                "running_mean": norm.operand("running_mean"),
                "norm_bias": norm.operand("bias"),
            },
            name=f"{norm.name}_shift",
        )
        bias = shifted_bias(layer, shift.result, rewriter)
        rewriter.set_operand(layer.node, "weight", weight_of_scaled_input(layer, factor, rewriter))
        rewriter.set_operand(layer.node, "bias", bias)
        rewriter.set_operand(layer.node, "input", norm.operand("input"))
        layer.node.location |= norm.location
        rewriter.erase(norm)

    def _check_sharing(self, layer: Layer) -> None:
        weight = layer.node.operand("weight")
        if weight is None or self.split_shared:
            return
        others = [user for user in weight.users if user is not layer.node]
        if others:
            raise FoldError(f"{others[0].name} uses the weight of {layer.node.name} too")


def _erase_unread(value: Value | None, rewriter: Rewriter) -> None:
    """Erase the unread expansion of a stored weight that a scaled copy replaced; the copy keeps the constants."""
    node = None if value is None else value.node
    if node is not None and node.is_dead:
        operands = [read for _, _, read in node.operand_values()]
        rewriter.erase(node)
        for operand in operands:
            _erase_unread(operand, rewriter)


def _require_running_statistics(norm: Node) -> None:
    if norm.attribute("training"):
        raise FoldError("it normalizes by the statistics of the batch (training=True)")
    if norm.operand("running_mean") is None or norm.operand("running_var") is None:
        raise FoldError("it keeps no running statistics, so it normalizes by those of the batch")
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = norm.operand(name)
        if value is not None and (value.constant is None or value.constant.is_mutated):
            raise FoldError(f"its {name} is computed by the model, not a constant")


def _check_statistics(norm: Node) -> None:
    """Check that factor and shift of a norm with running statistics are finite, where these have data."""
    tensors = {}
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = norm.operand(name)
        if value is not None and value.constant is not None and value.constant.has_data:
            tensors[name] = value.constant.tensor.detach()
    if any(each.is_meta for each in tensors.values()):
        return
    bad = {name: int((~torch.isfinite(each)).sum()) for name, each in tensors.items()}
    problems = [f"{count} channels of its {name} are NaN or infinite" for name, count in bad.items() if count]
    variance, eps = tensors.get("running_var"), float(norm.attribute("eps"))
    if variance is not None and (negative := int((variance + eps < 0).sum())):
        problems.append(f"{negative} channels of its running_var are negative")
    if problems:
        raise NormError(f"batch norm {norm.name} ({norm.location}): {' and '.join(problems)}; all must be finite")


def _layer_before(norm: Node) -> Layer:
    value = norm.operand("input")
    node = None if value is None else value.node
    layer = None if node is None else layer_of(node)
    if layer is None:
        raise FoldError("no convolution or linear layer before it")
    assert value is not None
    if value.use_count > 1:
        other = next((u.user.name for u in value.uses if u.user is not norm), norm.name)
        raise FoldError(f"{other} reads the output of {layer.node.name} too")
    _require_constant_of_same_dtype(norm, layer)
    return layer


def _layer_after(norm: Node) -> Layer:
    uses = norm.result.uses
    if len(uses) != 1 or not isinstance(uses[0].user, Node) or uses[0].operand != "input":
        raise FoldError("its output is not read by one layer alone")
    layer = layer_of(uses[0].user)
    if layer is None:
        raise FoldError("no convolution or linear layer after it")
    _require_constant_of_same_dtype(norm, layer)
    return layer


def _require_constant_of_same_dtype(norm: Node, layer: Layer) -> None:
    for name in ("weight", "bias"):
        value = layer.node.operand(name)
        if value is not None and not is_constant(value):
            raise FoldError(f"the {name} of {layer.node.name} is computed by the model, not a constant")
    ours, theirs = norm.result.tensor_type.dtype, layer.node.result.tensor_type.dtype
    if ours is not theirs:
        raise FoldError(f"it works in {ours.long_name}, {layer.node.name} in {theirs.long_name}")


def _factor(norm: Node, before: Node, rewriter: Rewriter) -> Value:
    variance = norm.operand("running_var")
    assert variance is not None
    assert isinstance(variance.type, TensorType)
    return rewriter.insert_before(
        before,
        "fold.batch_norm_factor",
        {"running_var": variance, "weight": norm.operand("weight")},
        {"eps": norm.attribute("eps"), "momentum": norm.attribute("momentum")},
        name=f"{norm.name}_factor",
    ).result


def _merge(layer: Node, norm: Node, rewriter: Rewriter) -> None:
    layer.location |= norm.location
    rewriter.replace(norm, layer.result)
