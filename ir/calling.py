"""Conversion between node operands and torch calls.

Used by the interpreter and by the export to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.utils._pytree as pytree

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, GraphError, Node, Value
from graphpress.ir.ops import OpDef, Trait
from graphpress.ir.text.pytrees import load_spec

# Extra attributes of an opaque node whose call does not map flat operands to a tuple: pytree specs as text.
CALL_SPEC = "call_spec"
RESULT_SPEC = "result_spec"
MOST_NESTED_CALLS = 50
"""Levels of nested graphs that are exchanged with torch, which traces and calls them by recursion."""


def check_depth(name: str, depth: int) -> None:
    """Raise if the graph `name`, which is in `depth` others, is too deep for torch.

    Raises:
        GraphError: if it is.
    """
    if depth > MOST_NESTED_CALLS:
        raise GraphError(
            f"graph {name!r} is nested too deeply for torch; accepted: {MOST_NESTED_CALLS} levels, each of which "
            "torch calls from the one around it"
        )


def call_arguments(
    node: Node, value: Callable[[Value], Any], nested: Callable[[Graph], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and keyword arguments for `node.op.target`.

    `value` maps each operand value to its argument, `nested` each nested graph.
    """
    op = node.op
    keep_tuples = op.has(Trait.OPAQUE)  # higher-order ops require tuples, ATen ops take lists

    def convert(argument: Any) -> Any:
        if isinstance(argument, Value):
            return value(argument)
        if isinstance(argument, tuple | list):
            items = [convert(item) for item in argument]
            return tuple(items) if keep_tuples else items
        if isinstance(argument, dict):
            return {key: convert(item) for key, item in argument.items()}
        if isinstance(argument, Graph):
            return nested(argument)
        if isinstance(argument, DType):
            return argument.torch_scalar_type
        return argument.target if isinstance(argument, OpDef) else argument

    bound = {name: convert(argument) for name, argument in node.operands.items()}
    for name, argument in node.attributes.items():
        bound[name] = convert(argument)
    if not op.variadic:
        return op.unbind(bound)
    bound.pop(RESULT_SPEC, None)
    spec = bound.pop(CALL_SPEC, None)
    if spec is not None:
        leaves = [bound[f"arg{index}"] for index in range(len(bound))]
        bound = pytree.tree_unflatten(leaves, load_spec(spec))
    return op.unbind(bound)


def call_results(node: Node, returned: Any) -> Sequence[Any]:
    """Return the results of `node`, in order, from the return value of `node.op.target`."""
    if not node.results:
        return ()
    if RESULT_SPEC in node.attributes:
        return pytree.tree_leaves(returned)
    if node.op.returns_sequence or len(node.results) > 1:
        return tuple(returned)
    return (returned,)


def result_paths(node: Node) -> list[tuple[Any, ...]]:
    """Return, for each result of `node`, its index path in the return value of `node.op.target`."""
    count = len(node.results)
    if RESULT_SPEC in node.attributes:
        spec = load_spec(node.attributes[RESULT_SPEC])
        paths: list[tuple[Any, ...]] = [()] * count

        def visit(structure: Any, path: tuple[Any, ...]) -> None:
            if isinstance(structure, int):
                paths[structure] = path
            else:
                items = structure.items() if isinstance(structure, dict) else enumerate(structure)
                for key, item in items:
                    visit(item, (*path, key))

        visit(pytree.tree_unflatten(list(range(count)), spec), ())
        return paths
    if node.op.returns_sequence or count > 1:
        return [(index,) for index in range(count)]
    return [()] * count
