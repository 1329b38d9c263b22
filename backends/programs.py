"""What is converted, as a program of `torch.export`: a module, such a program, or a graph of the IR."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram

from graphpress.backends import exporting
from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.errors import ConversionError
from graphpress.ir.graph import Graph
from graphpress.ir.ops import Trait
from graphpress.ir.torch_export import to_exported_program
from graphpress.passes.facts import QUANTIZERS_CONVERTED
from graphpress.passes.framework import Pipeline, Runner


def exported(model: Any, example_inputs: Any, dynamic_shapes: Any) -> ExportedProgram:
    """The program of a model. A graph is lowered first, and is not changed.

    Args:
        model: a module, which is exported in eval mode, a program, or a graph.
        example_inputs, dynamic_shapes: for a module, as `exporting.export` takes them.

    Raises:
        ConversionError: when torch cannot export the model, a graph holds what can only be looked at, or `model` is
            nothing of the kind.
        FactError: for a graph with fake-quantizers.
        LoweringError: for a graph with compressed values that no backend can store.
    """
    if isinstance(model, torch.nn.Module):
        return exporting.export(model, example_inputs, dynamic_shapes)
    if dynamic_shapes is not None:
        what = "program is exported already" if isinstance(model, ExportedProgram) else "graph has its own"
        raise ConversionError(f"dynamic_shapes belong to the export: this {what}")
    if isinstance(model, ExportedProgram):
        return model
    if isinstance(model, Graph):
        return _exported_graph(model)
    raise ConversionError(
        f"cannot convert a {type(model).__name__}: expected a module, an ExportedProgram or a graph of the IR"
    )


def _exported_graph(graph: Graph) -> ExportedProgram:
    opaque = sorted({node.op.name for node in graph.nodes if node.op.has(Trait.OPAQUE)})
    if opaque:
        raise ConversionError(
            f"the graph {graph.name} has ops that can be looked at, not converted: {', '.join(opaque)}; accepted: ops "
            "of aten and quant, and those of the backends"
        )
    QUANTIZERS_CONVERTED.check(graph, "convert")
    lowered = Runner().run(graph, Pipeline(LowerToCoreai(), assume=[QUANTIZERS_CONVERTED])).graph
    try:
        return to_exported_program(lowered)
    except Exception as error:
        raise ConversionError(
            f"torch.export cannot trace the graph {graph.name}: {type(error).__name__}: {exporting.head(error)}"
        ) from error
