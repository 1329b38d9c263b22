"""Pickles and deep copies of graphs.

Both go round the linked list of nodes, on which the default ways would recurse once per node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safetensors.torch import load, save

from graphpress.ir.cloning import clone
from graphpress.ir.digest import fresh_tensor_digest
from graphpress.ir.graph import Graph
from graphpress.ir.parser import parse_graph
from graphpress.ir.printer import exact_text
from graphpress.ir.regions import all_constants, nested_graphs
from graphpress.ir.tensor_archive import from_archive, to_archive


def reduce_graph(graph: Graph) -> tuple[Callable[..., Graph], tuple[Any, ...]]:
    """What ``Graph.__reduce__`` returns: the text form and the data by hash.

    The classes of the annotations go along, so that unpickling imports the modules that register them.
    """
    tensors = {
        fresh_tensor_digest(constant.tensor): constant.tensor for constant in all_constants(graph) if constant.has_data
    }
    classes = {kind: None for inner in nested_graphs(graph) for node in inner.nodes for kind in node.annotations}
    return _restore, (tuple(classes), exact_text(graph), save(to_archive(tensors)))


def _restore(_classes: tuple[type, ...], text: str, data: bytes) -> Graph:
    graph, tensors = parse_graph(text), load(data)
    for constant in all_constants(graph):
        if constant.digest in tensors:
            constant._tensor = from_archive(tensors[constant.digest], constant.type.dtype)
            constant.digest = None
    return graph


def deepcopy_graph(graph: Graph, memo: dict[int, Any]) -> Graph:
    """What ``Graph.__deepcopy__`` returns: a clone with tensors of its own, one per tensor of `graph`."""
    copy = memo[id(graph)] = clone(graph)
    for constant in all_constants(copy):
        tensor = constant._tensor
        if tensor is not None:
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            constant._tensor = memo[id(tensor)]
    return copy
