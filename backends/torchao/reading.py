"""The graph of an exported fx module, with the way back from each value to the fx node it came from."""

from __future__ import annotations

from attrs import frozen
from torch import fx

from graphpress.ir.body_reader import BodyReader, add_output
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.torch_types import type_of


@frozen
class ReadGraph:
    """A graph for analysis, not for running: writes stay where they are.

    Attributes:
        graph: the graph; its nodes have the names of the fx nodes.
        sources: the fx node of each value, by the value's ``id``.
    """

    graph: Graph
    sources: dict[int, fx.Node]

    def source(self, value: Value) -> fx.Node:
        """The fx node that makes `value`."""
        return self.sources[id(value)]

    def source_of(self, node: Node) -> fx.Node:
        """The fx node that `node` was read from."""
        first = self.source(node.results[0])
        return first.args[0] if len(node.results) > 1 else first  # type: ignore[return-value]


def read_module(module: fx.GraphModule) -> ReadGraph:
    """Read the graph of ``torch.export.export(...).module()``. The module is not changed."""
    graph = Graph("main")
    reader = BodyReader(graph, module, {}, allow_writes=True)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            reader.bind(node, graph.add_input(node.name, type_of(value)).value)
    # The guards on the inputs are a module that nothing reads.
    nodes = [node for node in module.graph.nodes if node.op != "call_module" or node.users]
    for item in reader.read(nodes):
        add_output(graph, item)
    sources: dict[int, fx.Node] = {}
    for node in nodes:
        value = reader.resolve(node) if node.op != "output" else None
        if isinstance(value, Value):
            sources.setdefault(id(value), node)
    return ReadGraph(graph, sources)
