"""Pickling and deep copies of graphs.

Both avoid the recursion over the linked node list that the defaults would do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphpress.ir.graph import Graph, all_constants, clone, nested_graphs
from graphpress.ir.tensors import fresh_tensor_digest, tensor_bytes
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.text.printer import exact_text


def reduce_graph(graph: Graph) -> tuple[Callable[..., Graph], tuple[Any, ...]]:
    """Implement ``Graph.__reduce__`` by the text form and the data by hash.

    The annotation classes are included, so that unpickling imports the modules that register them.
    """
    data: dict[str, tuple[torch.dtype, tuple[int, ...], bytes]] = {}
    for constant in all_constants(graph):
        if constant.has_data:
            tensor = constant.tensor
            digest = fresh_tensor_digest(tensor)
            if digest not in data:
                data[digest] = tensor.dtype, tuple(tensor.shape), bytes(tensor_bytes(tensor))
    classes = {kind: None for inner in nested_graphs(graph) for node in inner.nodes for kind in node.annotations}
    return _restore, (tuple(classes), exact_text(graph), data)


def _restore(
    _classes: tuple[type, ...], text: str, data: dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]
) -> Graph:
    graph = parse_graph(text)
    tensors = {digest: _tensor(*stored) for digest, stored in data.items()}
    for constant in all_constants(graph):
        if constant.digest in tensors:
            constant._tensor, constant.digest = tensors[constant.digest], None
    return graph


def _tensor(dtype: torch.dtype, shape: tuple[int, ...], content: bytes) -> torch.Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    # Copied, because matrix products on memory with other alignment differ in their last bits.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype).reshape(shape).clone()


def deepcopy_graph(graph: Graph, memo: dict[int, Any]) -> Graph:
    """Implement ``Graph.__deepcopy__``: a clone with copied tensors, each tensor copied once."""
    copy = memo[id(graph)] = clone(graph)
    for constant in all_constants(copy):
        tensor = constant._tensor
        if tensor is not None:
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            constant._tensor = memo[id(tensor)]
    return copy
