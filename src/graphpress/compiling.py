"""Run a pass pipeline over an exported program and return an exported program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph, Input
from graphpress.ir.torch import to_exported_program
from graphpress.ir.torch.capture import from_exported_program
from graphpress.ir.types import TensorType
from graphpress.passes.framework import Hook, Pipeline, Runner


class CompileError(GraphpressError, TypeError):
    """An argument is not an exported program, or not a pipeline."""


class CalibrationError(GraphpressError):
    """A pipeline requires calibration data."""


def compile(
    exported_program: ExportedProgram, pipeline: Pipeline | str, *, hooks: Iterable[Hook] = ()
) -> ExportedProgram:
    """Run `pipeline` over an exported program.

    Args:
        exported_program: the result of `torch.export.export`. It is not changed; the result shares the tensors that no
            pass replaces.
        pipeline: a `Pipeline` or its text, such as ``"canonicalize,fold-batch-norm,dce"``.
        hooks: called around each step. The graph is verified after each step in any case.

    Returns:
        a program with the same signature, dynamic shapes, buffer mutations and tied weights.

    Raises:
        CompileError: if an argument has the wrong type.
        CalibrationError: if quantizers without parameters remain.
        PipelineSyntaxError, PipelineError: if the text is not a pipeline, or its steps are in the wrong order.
        GraphpressError: the error of a pass.
    """
    if not isinstance(exported_program, ExportedProgram):
        raise CompileError(
            f"compile() takes an ExportedProgram, not a {type(exported_program).__name__}; "
            "torch.export.export(model.eval(), example_inputs) creates one"
        )
    if isinstance(pipeline, str):
        pipeline = Pipeline.parse(pipeline)
    if not isinstance(pipeline, Pipeline):
        raise CompileError(f"compile() takes a Pipeline or its text, not a {type(pipeline).__name__}")
    graph = from_exported_program(exported_program)
    graph = Runner(hooks=list(hooks)).run(graph, pipeline, in_place=True).graph
    _check_quantizers(graph)
    return to_exported_program(graph, _example_inputs(exported_program, graph))


def _check_quantizers(graph: Graph) -> None:
    """Reject quantizers without parameters, which would pass their inputs through unquantized."""
    empty = [n.name for n in graph.nodes if n.op.name == "quant.fake_quantize" and n.operand("scale") is None]
    if empty:
        raise CalibrationError(
            f"the pipeline leaves {len(empty)} quantizers without parameters, such as {empty[0]!r}, which require "
            "calibration data; graphpress.quantization.Quantizer prepares, calibrates and finalizes a model"
        )


def _example_inputs(program: ExportedProgram, graph: Graph) -> Sequence[Any] | None:
    """Return the flattened example inputs of the program, or None if they no longer fit the graph."""
    flat = pytree.tree_leaves(program.example_inputs) if program.example_inputs is not None else ()
    fits = len(flat) == len(graph.inputs) and all(map(_fits, flat, graph.inputs))
    return flat if fits else None


def _fits(value: Any, graph_input: Input) -> bool:
    type = graph_input.value.type if graph_input.value is not None else None
    if not isinstance(type, TensorType):
        return not isinstance(value, torch.Tensor)
    if not isinstance(value, torch.Tensor) or value.dtype is not type.dtype.torch_dtype or value.ndim != type.rank:
        return False
    return all(not isinstance(want, int) or want == have for want, have in zip(type.shape, value.shape, strict=True))
