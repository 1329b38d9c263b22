"""How a factor for each output channel goes into a weight, in whatever form the weight is stored."""

from __future__ import annotations

import torch

from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.layers import Layer


class FoldError(Exception):
    """Why a factor cannot go into a weight. Caught by the pass, which reports it."""


def scaled_weight(layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    """A weight for `layer` in which output channel c is multiplied by ``factor[c]``; compressed weights stay
    compressed.

    Raises:
        FoldError: when the stored form cannot absorb the factor.
    """
    weight = layer.node.operand("weight")
    assert weight is not None
    return _scaled(weight, layer, factor, rewriter)


def _scaled(weight: Value, layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    producer = weight.node
    if producer is None or producer.op.dialect in ("fold", "aten"):
        return _scale_axis(weight, layer, factor, rewriter)
    match producer.op.name:
        case "quant.blockwise_shift_scale":
            return _scale_operands(producer, ("scale", "minval"), layer, factor, rewriter)
        case "quant.lut_to_dense":
            return _scaled_table(producer, layer, factor, rewriter)
    raise FoldError(f"the weight of {layer.node.name} is stored as {producer.op.name}")


def _scaled_table(node: Node, layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    lut = node.operand("lut")
    assert lut is not None
    axis = layer.out_axis
    if lut.tensor_type.shape[axis] == factor.tensor_type.shape[0]:
        return _scale_operands(node, ("lut",), layer, factor, rewriter)
    if layer.groups > 1 and layer.is_transposed:
        raise FoldError(f"a table of {layer.node.name} serves several output channels of grouped weights")
    # The table stands for several channels: a scale beside it takes the factor.
    dense = node.result
    ones = rewriter.add_constant(f"{layer.node.name}.weight_scale", _ones(dense), "buffer")
    scale = _scale_axis(ones, layer, factor, rewriter, is_scale=True)
    dtype = dense.tensor_type.dtype
    attributes = {"dtype": dtype, "output_dtype": dtype}
    operands = {"input": dense, "scale": scale}
    made = rewriter.insert_before(layer.node, "quant.blockwise_shift_scale", operands, attributes)
    return made.result


def _scale_operands(node: Node, names: tuple[str, ...], layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    if layer.groups > 1 and layer.is_transposed:
        raise FoldError(
            f"the scales of the grouped transposed weight of {layer.node.name} are not one per output channel"
        )
    operands = dict(node.operands)
    for name in names:
        operand = node.operand(name)
        if operand is None:
            continue
        if operand.tensor_type.rank == 0:
            operand = _with_rank_of(operand, node.result, layer, rewriter)
        operands[name] = _scale_axis(operand, layer, factor, rewriter, is_scale=name == "scale")
    return rewriter.insert_before(layer.node, node.op, operands, node.attributes, name=node.name).result


def _with_rank_of(scalar: Value, dense: Value, layer: Layer, rewriter: Rewriter) -> Value:
    shape = (1,) * dense.tensor_type.rank
    return rewriter.insert_before(layer.node, "aten.reshape", {"self": scalar}, {"shape": shape}).result


def _scale_axis(data: Value, layer: Layer, factor: Value, rewriter: Rewriter, *, is_scale: bool = False) -> Value:
    attributes: dict[str, object] = {"axis": layer.out_axis}
    if layer.is_transposed:
        attributes["groups"] = layer.groups
    if is_scale:
        attributes["is_scale"] = True
    made = rewriter.insert_before(
        layer.node,
        "fold.scale_axis",
        {"input": data, "factor": factor},
        attributes,
        name=f"{layer.node.name}_weight",
    )
    return made.result


def _ones(dense: Value) -> torch.Tensor:
    return torch.ones((1,) * dense.tensor_type.rank)
