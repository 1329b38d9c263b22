"""What `copy_` does to its source, spelled out: a copy has its target's element type, shape and memory layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.export import ExportedProgram
from torch.fx import Node as FxNode

from graphpress.ir.dims import Dim
from graphpress.ir.torch_types import dim_of


@contextmanager
def explicit_copies(program: ExportedProgram) -> Iterator[None]:
    """While this lasts, the source of every `copy_` has the element type, shape and strides of the target.

    torch's functionalization takes the source of a `copy_` to a buffer for the buffer's new value, whatever its type.
    """
    added: list[FxNode] = []
    restore: list[tuple[FxNode, FxNode]] = []
    graph = program.graph
    for node in [node for node in graph.nodes if node.target is torch.ops.aten.copy_.default]:
        target, source = node.args[:2]
        wanted, given = target.meta["val"], source.meta["val"]
        restore.append((node, source))
        with graph.inserting_before(node):
            if given.dtype != wanted.dtype:
                source = graph.call_function(torch.ops.aten.to.dtype, (source, wanted.dtype))
                added.append(source)
            if _layout(given)[0] != _layout(wanted)[0]:
                source = graph.call_function(torch.ops.aten.expand_as.default, (source, target))
                added.append(source)
            if needs_own_memory(given, wanted):
                contiguous = {"memory_format": torch.contiguous_format}
                source = graph.call_function(torch.ops.aten.clone.default, (source,), contiguous)
                added.append(source)
        node.update_arg(1, source)
    for node in added:
        node.meta = {key: item for key, item in next(iter(node.users)).meta.items() if key != "val"}
    program.graph_module.recompile()
    try:
        yield
    finally:
        for node, source in restore:
            node.update_arg(1, source)
        for node in reversed(added):
            graph.erase_node(node)
        program.graph_module.recompile()


def needs_own_memory(source: torch.Tensor, target: torch.Tensor) -> bool:
    """True when a copy of `source` lies in memory as `target` does, but `source` itself does not.

    Later views, and the order in which sums are taken, depend on it.
    """
    if _layout(source) == _layout(target):
        return False
    shape, stride = _layout(target)
    expected: Dim = 1
    for extent, step in zip(reversed(shape), reversed(stride), strict=True):
        if step != expected and extent != 1:
            return False
        if not isinstance(extent, int) or not isinstance(expected, int):
            return True  # of symbolic extents only the last is looked at
        expected *= extent
    return True


def _layout(tensor: torch.Tensor) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Shape and strides, symbolic ones as expressions: comparing torch's own would add guards."""
    return tuple(map(dim_of, tensor.shape)), tuple(map(dim_of, tensor.stride()))
