"""Which values depend on constants alone, and which dropouts do nothing."""

from __future__ import annotations

from graphpress.ir.graph import Constant, Graph, Node, Value


def constant_values(graph: Graph) -> set[int]:
    """``id`` of every value that is a constant or computed from constants only, by ops that always give the same
    result.

    A buffer that running the graph writes to is not one: its value is not known before the run.
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
    """True when `value` is in `constant_values` of its graph; for one value this is quicker."""
    if value.node is None:
        return value.constant is not None and not value.constant.is_mutated
    return is_foldable(value.node) and all(is_constant(read) for _, _, read in value.node.operand_values())


def is_foldable(node: Node) -> bool:
    """True when `node` gives the same results for the same operands, has no effect, and reads at least one operand."""
    return node.op.is_repeatable and next(node.operand_values(), None) is not None


def root_constant(value: Value) -> Constant | None:
    """The constant that `value` is, or is made from through its first operands: the weight a folded weight comes
    from.
    """
    while value.node is not None:
        first = next(value.node.operand_values(), None)
        if first is None:
            return None
        value = first[2]
    return value.constant


DROPOUTS = frozenset({"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"})


def is_idle_dropout(node: Node) -> bool:
    """True for a dropout captured in evaluation mode, whose result is its operand."""
    return node.op.dialect == "aten" and node.op.family in DROPOUTS and not node.attribute("train")


def before_dropout(value: Value) -> Value:
    """The value that `value` is in evaluation: what went into the dropouts it comes from."""
    while value.node is not None and is_idle_dropout(value.node):
        operand = value.node.operand("input")
        assert operand is not None
        value = operand
    return value
