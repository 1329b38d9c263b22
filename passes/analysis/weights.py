"""Weight operands and their quantization blocks."""

from __future__ import annotations

from attrs import evolve
from torch import Tensor

from graphpress.ir import reference
from graphpress.ir.graph import Node, Value
from graphpress.ir.types import TensorType
from graphpress.passes.config import (
    Granularity,
    PerBlockGranularity,
    PerChannelGranularity,
    PerTensorGranularity,
    has_default_axis,
    weight_block_shape,
)

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")

# Axes of (output features, summed features), counted from the end, for ops that the config's axis table does not list.
_AXES = {("matmul", "other"): (-1, -2), ("mm", "mat2"): (-1, -2), ("bmm", "mat2"): (-1, -2)}
_AXES |= {("matmul", "self"): (-2, -1), ("mm", "self"): (-2, -1), ("bmm", "self"): (-2, -1)}
_AXES |= {("addmm", "mat2"): (-1, -2), ("addmm", "mat1"): (-2, -1)}
_AXES |= {("baddbmm", "batch2"): (-1, -2), ("baddbmm", "batch1"): (-2, -1), ("bilinear", "weight"): (-3, -1)}
_AXES |= {(family, "params"): (-2, -1) for family in _RECURRENT}
_AXES |= {(f"{family}_cell", name): (-2, -1) for family in _RECURRENT for name in ("w_ih", "w_hh")}

_AXES |= {("grouped_mm_fallback", "weight"): (-1, -2), ("_grouped_mm", "mat2"): (-1, -2)}  # matrices of experts

# Operands of these ops that are added or carried, whatever their shape.
_NO_WEIGHTS = frozenset({"bias", "hx", "hidden", "b_ih", "b_hh"}) | {("addmm", "self"), ("baddbmm", "self")}


def is_weight(node: Node, operand: str, value: Value) -> bool:
    """Return True for a quantizable constant: floating, at least two axes, not compressed."""
    type = value.type
    if not isinstance(type, TensorType) or not type.dtype.is_floating or type.dtype.bits < 16:
        return False
    return can_be_weight(node.op.family, operand, type.rank) and not is_compressed(value)


def is_compressed(value: Value) -> bool:
    """Return True if `value` is expanded from a compressed form.

    Kept elements of a pruned weight do not count if they are floats.
    """
    node = value.node
    while node is not None:
        if node.op.dialect == "quant" and node.op.name != "quant.fake_quantize":
            return sparse_parts(node.result) is None
        first = next(node.operand_values(), None)
        node = None if first is None else first[2].node
    return False


def sparse_parts(value: Value) -> tuple[Value, Value] | None:
    """Return the kept elements and the mask of a pruned float weight, or None."""
    if value.node is None or value.node.op.name != "quant.sparse_to_dense":
        return None
    values, mask = value.node.operands["values"], value.node.operands["mask"]
    is_wide = values.tensor_type.dtype.is_floating and values.tensor_type.dtype.bits >= 16
    return (values, mask) if is_wide and not is_compressed(values) else None


def is_sparse(value: Value) -> bool:
    """Return True if `value` is an expanded pruned float weight, or computed from one."""
    node = value.node
    while node is not None:
        if sparse_parts(node.results[0]) is not None:
            return True
        first = next(node.operand_values(), None)
        node = None if first is None else first[2].node
    return False


def dense_weight(value: Value) -> Tensor | None:
    """Return the data of a constant weight, or the kept elements of a pruned one; None for a computed weight."""
    if value.constant is not None:
        return value.constant.tensor
    values, mask = (part.constant for part in sparse_parts(value) or (value, value))
    if values is None or mask is None:
        return None
    return reference.sparse_to_dense(values.tensor, mask.tensor)


def weight_block(node: Node, value: Value, granularity: Granularity) -> tuple[int, ...]:
    """Return the block size per axis of a weight; empty for one block.

    Raises:
        AxisError: if an axis is needed and the op has no default.
        BlockSizeError: if a block size does not divide its axis.
    """
    assert value.tensor_type.is_static
    shape: tuple[int, ...] = value.tensor_type.shape  # type: ignore[assignment]
    return weight_block_of(node.op.family, shape, granularity, value.name, _axes(node, value))


def weight_block_of(
    op_type: str, shape: tuple[int, ...], granularity: Granularity, name: str, axes: tuple[int, int] | None
) -> tuple[int, ...]:
    """Return the block size as `weight_block` does, from an op type and a shape.

    `axes`, of output and summed features counted from the end, are used for op types without a table entry: see
    `operand_axes`.
    """
    if isinstance(granularity, PerTensorGranularity):
        return ()
    if axes is not None and getattr(granularity, "axis", None) is None:
        if isinstance(granularity, PerChannelGranularity):
            granularity = evolve(granularity, axis=axes[0])
        elif isinstance(granularity, PerBlockGranularity) and isinstance(granularity.block_size, int):
            granularity = evolve(granularity, axis=axes[1])
        return granularity.block_shape(shape, name)
    if not has_default_axis(op_type) and getattr(granularity, "axis", 0) is not None:
        return granularity.block_shape(shape, name)
    return weight_block_shape(granularity, shape, op_type, name)


def operand_axes(op_type: str, operand: str) -> tuple[int, int] | None:
    """Return the axes of output and summed features of a weight operand, or None if the op's table lists them."""
    return _AXES.get((op_type, operand))


def can_be_weight(op_type: str, operand: str, rank: int) -> bool:
    """Return True for an operand of two or more axes that an op multiplies with its input or gathers rows from."""
    is_added = operand in _NO_WEIGHTS or (op_type, operand) in _NO_WEIGHTS
    return rank >= 2 and op_type in _FAMILIES and not is_added


def _axes(node: Node, value: Value) -> tuple[int, int] | None:
    """Return the axes of output and summed features, counted from the end, or None if the op's table lists them."""
    operand, index = next((name, index) for name, index, read in node.operand_values() if read is value)
    if node.op.family == "einsum":
        return einsum_axes(node.attribute("equation"), index or 0)
    return operand_axes(node.op.family, operand)


def einsum_axes(equation: str, index: int) -> tuple[int, int] | None:
    """Return the last axis that only this operand has and the result keeps, and the last axis summed over."""
    read, _, made = equation.replace(" ", "").partition("->")
    terms = read.split(",")
    term = terms[index].rpartition("...")[2]
    others = "".join(terms[:index] + terms[index + 1 :])
    free = [label for label in term if label in made and label not in others]
    if not free:
        return None
    summed = [label for label in term if label not in made] or free
    return term.rindex(free[-1]) - len(term), term.rindex(summed[-1]) - len(term)


_FAMILIES = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear embedding embedding_bag
    matmul mm bmm addmm baddbmm einsum lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    grouped_mm_fallback _grouped_mm
    """.split()  # noqa: SIM905
)
