"""Errors of failing passes, located in the user's model."""

from __future__ import annotations

from typing import Any

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph, GraphError, Node, Value
from graphpress.ir.inference import TypeInferenceError
from graphpress.ir.location import Location
from graphpress.ir.ops import OpError
from graphpress.passes.framework.errors import PassFailed
from graphpress.passes.framework.passes import PassContext
from graphpress.passes.framework.steps import Step

_DEFECTS = (GraphError, OpError, TypeInferenceError)
"""Our errors that indicate a defect of a pass, not of the user's request, when they leave a pass."""

_EXCERPT_REACH = 3


def failure_of(error: Exception, step: Step, graph: Graph, context: PassContext) -> Exception:
    """Return the error to raise for `error`, which left the pass of `step`.

    Errors about the user's request keep their type and get step and node as a note; any other error becomes a
    `PassFailed`.
    """
    node = getattr(error, "node", None)
    node = node if isinstance(node, Node) else context.node
    where = _where(node)
    if isinstance(error, GraphpressError) and not isinstance(error, _DEFECTS):
        error.add_note(f"in step {step.label!r}{where}")
        return error
    shown = excerpt(graph, node)
    message = f"step {step.label!r} failed: {type(error).__name__}: {error}{where}"
    if shown:
        message += "\n  graph:\n" + "\n".join(f"    {line}" for line in shown.split("\n"))
    return PassFailed(message, step.address, None if node is None else node.name, shown)


def excerpt(graph: Graph, node: Node | None) -> str:
    """Return the lines of the graph around `node`, marked with ``>``; empty if the node is not in the graph."""
    if node is None:
        return ""
    if node.graph is not graph:
        return f"> {_line(node)}  (no longer in the graph)"
    around = [node]
    for _ in range(_EXCERPT_REACH):
        if (previous := around[0]._previous) is not None:
            around.insert(0, previous)
        if (following := around[-1]._next) is not None:
            around.append(following)
    return "\n".join(f"{'>' if other is node else ' '} {_line(other)}" for other in around)


def _line(node: Node) -> str:
    """Render a node on one line, independently of the printer, which fails on inconsistent graphs."""

    def shown(operand: Any) -> str:
        if isinstance(operand, tuple):
            return f"[{', '.join(map(shown, operand))}]"
        return f"%{operand.name}" if isinstance(operand, Value) else repr(operand)

    types = ", ".join(str(result.type) for result in node.results)
    operands = ", ".join(f"{name}={shown(operand)}" for name, operand in node.operands.items())
    attributes = ", ".join(f"{name}={value!r:.40}" for name, value in node.attributes.items())
    return f"%{node.name}: {types} = {node.op.name}({operands})" + (f" {{{attributes}}}" if attributes else "")


def _where(node: Node | None) -> str:
    return "" if node is None else place(node.name, node.op.name, node.location)


def place(name: str, op: str, location: Location) -> str:
    """Describe the source of a node: its name and op, module paths, source lines."""
    lines = [f"\n  node: {name} ({op})"]
    for origin in location.origins[:3]:
        scope = f" ({origin.scopes[-1].type_name.rpartition('.')[2]})" if origin.scopes else ""
        lines.append(f"\n  module: {origin.module_path or '<model>'}{scope}")
        if origin.file:
            lines.append(f"\n  source: {origin.file}:{origin.line}")
    return "".join(lines)
