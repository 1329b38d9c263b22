"""Emit a graph that was lowered to Core ML's metadata form as a module that coremltools converts."""

from __future__ import annotations

from torch import nn

from graphpress.backends.coreml.metadata import describe
from graphpress.ir.graph import Graph, Value
from graphpress.quantization.outlining import emit_finalized


def emit_for_coreml(graph: Graph, mmap_dir: str | None = None) -> nn.Module:
    """The finalized model: weights are float parameters, described by buffers beside them."""
    described: dict[str, dict[str, Value]] = {}
    for node in graph.nodes_of(lambda op: op.name == "coreml.described"):
        weight = node.operands["weight"]
        described[weight.constant.name] = dict(zip(node.attribute("keys"), node.operands["entries"], strict=True))
        graph.replace_uses(node.result, weight)
        graph.erase(node)
    tensors = {
        name: {key: value.constant.tensor for key, value in entries.items() if value.constant is not None}
        for name, entries in described.items()
    }
    for entries in described.values():
        for value in entries.values():
            if value.constant is not None and not value.use_count:
                graph.erase_constant(value.constant)
    module = emit_finalized(graph, mmap_dir=mmap_dir)
    for name, found in tensors.items():
        path, _, parameter = name.rpartition(".")
        describe(module, module.get_submodule(path), parameter, found)
    return module
