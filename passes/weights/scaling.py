"""Scaling of the output channels of a weight, in any stored form."""

from __future__ import annotations

from typing import Any

import torch

from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.layers import Layer
from graphpress.passes.analysis.weights import is_compressed, is_sparse, sparse_parts


class FoldError(Exception):
    """The reason why a factor cannot be folded into a weight; the pass catches and reports it."""


def require_foldable(layer: Layer) -> None:
    """Check that `scaled_weight` can scale the output channels of the weight of `layer`, without editing.

    Raises:
        FoldError: if its stored form cannot absorb the factor.
    """
    name, producer = layer.node.name, _producer(layer)
    if is_sparse(_weight(layer)) and sparse_parts(_weight(layer)) is None:
        raise FoldError(f"the weight of {name} is pruned and goes through other ops")
    if not is_compressed(_weight(layer)):
        return
    assert producer is not None
    if producer.op.name not in _SCALABLE or (_is_sparse_form(producer) and _is_grouped_transposed(layer)):
        how = "is stored as" if producer.op.dialect == "quant" else "is stored in compressed form and goes through"
        raise FoldError(f"the weight of {name} {how} {producer.op.name}")
    if _is_grouped_transposed(layer) and producer.op.name == "quant.blockwise_shift_scale":
        scale = producer.operands["scale"]
        has_one_group = all(dim == 1 for axis, dim in enumerate(scale.tensor_type.shape) if axis != 1)
        if not has_one_group and not _has_every_group(scale, layer):
            raise FoldError(f"the grouped transposed weight of {name} has scales for blocks of input channels")


def scaled_weight(layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    """Return a weight for `layer` with output channel c multiplied by ``factor[c]``.

    Compressed weights stay compressed. Call `require_foldable` first.
    """
    producer, weight = _producer(layer), _weight(layer)
    if sparse_parts(weight) is not None:
        return _scaled_sparse(weight, layer, factor, rewriter)
    if producer is None or not is_compressed(weight):
        return _scale_axis(weight, layer, factor, rewriter)
    if _is_sparse_form(producer):
        scaled = _scale_beside(producer.result, layer, factor, rewriter)
    elif producer.op.name == "quant.lut_to_dense":
        scaled = _scaled_table(producer, layer, factor, rewriter)
    else:
        scaled = _scale_operands(producer, ("scale", "minval"), layer, factor, rewriter)
    if scaled.type == weight.type:
        return scaled
    cast, dtype = weight.type, weight.tensor_type.dtype
    return rewriter.insert_before(layer.node, "aten.to.dtype", {"self": scaled}, {"dtype": dtype}, types=[cast]).result


def require_dense(layer: Layer) -> None:
    """Check that `weight_of_scaled_input` and `shifted_bias` support the layer.

    Raises:
        FoldError: if the weight is compressed and thus has no parameters per input channel.
    """
    if is_compressed(_weight(layer)) or is_sparse(_weight(layer)):
        raise FoldError(f"the weight of {layer.node.name} after it is stored in compressed form")


def weight_of_scaled_input(layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    """Return a weight for a non-transposed `layer` with input channel c multiplied by ``factor[c]``."""
    return _times_inputs(layer, factor, f"{layer.node.name}_weight", rewriter)


def shifted_bias(layer: Layer, shift: Value, rewriter: Rewriter) -> Value:
    """Return a bias for a non-transposed `layer` equivalent to adding ``shift[c]`` to input channel c."""
    weight = _weight(layer)
    if layer.groups > 1:  # each group has its own inputs, and thus shifts
        weight = _times_inputs(layer, shift, f"{layer.node.name}_shifted", rewriter)
        ones = torch.ones(weight.tensor_type.shape[1], dtype=weight.tensor_type.dtype.torch_dtype)  # type: ignore[arg-type]
        shift = rewriter.add_constant(f"{layer.node.name}.ones", ones)
    return rewriter.insert_before(
        layer.node,
        "fold.input_shift_bias",
        {"weight": weight, "shift": shift, "bias": layer.node.operand("bias")},
        name=f"{layer.node.name}_bias",
    ).result


def _times_inputs(layer: Layer, factor: Value, name: str, rewriter: Rewriter) -> Value:
    operands = {"input": layer.node.operand("weight"), "factor": factor}
    attributes = {"axis": 1, "groups": layer.groups}
    return rewriter.insert_before(layer.node, "fold.scale_axis", operands, attributes, name=name).result


_SCALABLE = ("quant.blockwise_shift_scale", "quant.lut_to_dense", "quant.sparse_to_dense")
_CASTS = ("aten.to.dtype", "aten._to_copy")


def _is_sparse_form(producer: Node) -> bool:
    return producer.op.name == "quant.sparse_to_dense"


def _weight(layer: Layer) -> Value:
    weight = layer.node.operand("weight")
    assert weight is not None
    return weight


def _producer(layer: Layer) -> Node | None:
    """Return the node that computes the weight, ignoring casts."""
    node = _weight(layer).node
    while node is not None and node.op.name in _CASTS:
        node = node.operands["self"].node
    return node


def _is_grouped_transposed(layer: Layer) -> bool:
    return layer.is_transposed and layer.groups > 1


def _has_every_group(parameters: Value, layer: Layer) -> bool:
    """Return True if the parameters of a grouped transposed weight have an entry for each output channel."""
    shape = parameters.tensor_type.shape
    return len(shape) > 1 and shape[0] % layer.groups == 0 and shape[1] == _weight(layer).tensor_type.shape[1]  # type: ignore[operator]


def _scaled_sparse(weight: Value, layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    """Scale the kept elements of a pruned weight by the factors of their output channels."""
    node = weight.node
    assert node is not None
    operands = {**node.operands, "factor": factor}
    attributes = {"axis": layer.out_axis, "groups": layer.groups if layer.is_transposed else 1}
    values = rewriter.insert_before(
        layer.node, "fold.scale_kept", operands, attributes, name=f"{layer.node.name}_weight"
    ).result
    return rewriter.insert_before(
        layer.node, node.op, {"values": values, "mask": node.operands["mask"]}, name=node.name
    ).result


def _scaled_table(node: Node, layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    lut = node.operand("lut")
    assert lut is not None
    if lut.tensor_type.shape[layer.out_axis] == factor.tensor_type.shape[0] and not _is_grouped_transposed(layer):
        return _scale_operands(node, ("lut",), layer, factor, rewriter)
    # One table serves several channels.
    return _scale_beside(node.result, layer, factor, rewriter)


def _scale_beside(dense: Value, layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    """Fold the factor into a scale beside a stored weight; no codes are multiplied by it, so it keeps all its bits."""
    ones = rewriter.add_constant(f"{layer.node.name}.weight_scale", _ones(dense), "buffer")
    scale = _scaled_parameter(ones, layer, factor, rewriter, is_scale=False)
    dtype = dense.tensor_type.dtype
    attributes = {"dtype": dtype, "output_dtype": dtype}
    operands = {"input": dense, "scale": scale}
    made = rewriter.insert_before(layer.node, "quant.blockwise_shift_scale", operands, attributes)
    return made.result


def _scale_operands(node: Node, names: tuple[str, ...], layer: Layer, factor: Value, rewriter: Rewriter) -> Value:
    operands = dict(node.operands)
    for name in names:
        operand = node.operand(name)
        if operand is None:
            continue
        if operand.tensor_type.rank == 0:
            operand = _reshaped(operand, (1,) * node.result.tensor_type.rank, layer, rewriter)
        operands[name] = _scaled_parameter(operand, layer, factor, rewriter, is_scale=name == "scale")
    return rewriter.insert_before(layer.node, node.op, operands, node.attributes, name=node.name).result


def _reshaped(value: Value, shape: tuple[Any, ...], layer: Layer, rewriter: Rewriter) -> Value:
    return rewriter.insert_before(layer.node, "aten.reshape", {"self": value}, {"shape": shape}).result


def _scaled_parameter(data: Value, layer: Layer, factor: Value, rewriter: Rewriter, *, is_scale: bool) -> Value:
    """Scale the scales, minimum values or tables of a stored weight by the factors of their output channels."""
    if not _is_grouped_transposed(layer) or _has_every_group(data, layer):
        return _scale_axis(data, layer, factor, rewriter, is_scale=is_scale)
    # The output channels of a group are on axis 1 and the groups on axis 0, where the parameters have a single entry
    # and will have one per group. Factor and parameters are exchanged, since the factor has the resulting shape.
    rank, outputs = data.tensor_type.rank, data.tensor_type.shape[1]
    channels = factor.tensor_type.shape[0]
    assert isinstance(channels, int)
    grouped = (layer.groups, channels // layer.groups, *[1] * (rank - 2))
    operands = {
        "input": _reshaped(factor, grouped, layer, rewriter),
        "factor": _reshaped(data, (outputs,), layer, rewriter),
    }
    attributes = {"axis": 1 if outputs != 1 else rank - 1, "is_scale": is_scale}
    return rewriter.insert_before(
        layer.node, "fold.scale_axis", operands, attributes, name=f"{layer.node.name}_weight"
    ).result


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
    """Return scales of one in the dtype of the weight, so that no cast follows."""
    return torch.ones((1,) * dense.tensor_type.rank, dtype=dense.tensor_type.dtype.torch_dtype)
