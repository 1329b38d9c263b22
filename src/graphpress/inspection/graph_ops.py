"""The ops of a captured model."""

from __future__ import annotations

from collections.abc import Callable

from graphpress.inspection.summary import OpInfo
from graphpress.ir.graph import Graph, Node, Output, Value
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.sites import site_of


def graph_ops(graph: Graph, wanted: Callable[[Node], bool]) -> list[OpInfo]:
    """The nodes of a canonical graph that are `wanted`, as configs address them, in execution order."""
    constant = constant_values(graph)
    return [_op(node, constant) for node in graph.nodes if wanted(node)]


def _op(node: Node, constant: set[int]) -> OpInfo:
    site = site_of(node, constant)
    origin = node.location.origins[0] if node.location.origins else None
    return OpInfo(
        site.name,
        site.op_type,
        site.module_stack,
        tuple(_name(value) for _, _, value in node.operand_values()),
        tuple(dict.fromkeys(_reader(use.user) for result in node.results for use in result.uses)),
        f"{origin.file}:{origin.line}" if origin is not None and origin.file else "",
    )


def _name(value: Value) -> str:
    constant = value.constant
    return value.producer.name if constant is None or not constant.names else constant.names[0]


def _reader(user: Node | Output) -> str:
    return "output" if isinstance(user, Output) else user.name
