"""Values that depend on constants only, and dropouts in evaluation mode."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor

from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.interpreter import evaluate_node


def constant_values(graph: Graph) -> set[int]:
    """Return the ``id`` of every constant, and of every value computed from constants by repeatable ops.

    Buffers that the graph writes to are excluded: their values are known at run time only.
    """
    mutated = {id(output.target) for output in graph.outputs}
    found = {id(constant.value) for constant in graph.constants.values()} - mutated
    for node in graph.nodes:
        if not node.op.is_repeatable:
            continue
        reads = False
        for _, _, value in node.operand_values():
            if id(value) not in found:
                break
            reads = True
        else:
            if reads:
                found.update(map(id, node.results))
    return found


def is_constant(value: Value) -> bool:
    """Return True if `value` is in `constant_values` of its graph; faster for a single value."""
    if value.node is None:
        return value.constant is not None and not value.constant.is_mutated
    return is_foldable(value.node) and all(is_constant(read) for _, _, read in value.node.operand_values())


def is_foldable(node: Node) -> bool:
    """Return True if `node` is repeatable, has no effect, and reads at least one operand."""
    return node.op.is_repeatable and next(node.operand_values(), None) is not None


def constant_tensor(value: Value, known: MutableMapping[int, Any] | None = None) -> Tensor:
    """Compute `value`, which must be constant; `known` keeps results between calls, by the ``id`` of their values."""
    known = {} if known is None else known
    if value.constant is not None:
        return value.constant.tensor.detach()
    if id(value) not in known:
        assert value.node is not None
        results = evaluate_node(value.node, lambda read: constant_tensor(read, known))
        known.update((id(made), result) for made, result in zip(value.node.results, results, strict=True))
    found: Tensor = known[id(value)]
    return found


def root_constant(value: Value) -> Constant | None:
    """Return the constant at the end of the chain of first operands, such as the original of a folded weight."""
    while value.node is not None:
        first = next(value.node.operand_values(), None)
        if first is None:
            return None
        value = first[2]
    return value.constant


DROPOUTS = frozenset({"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"})


def is_idle_dropout(node: Node) -> bool:
    """Return True for a dropout captured in evaluation mode, which returns its operand."""
    return node.op.dialect == "aten" and node.op.family in DROPOUTS and not node.attribute("train")


def before_dropout(value: Value) -> Value:
    """Return the source of `value` before any dropouts in evaluation mode."""
    while value.node is not None and is_idle_dropout(value.node):
        operand = value.node.operand("input")
        assert operand is not None
        value = operand
    return value
