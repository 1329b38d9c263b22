"""The whole way at once: an exported program in, passes, an exported program out."""

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
    """Something to compile that is no exported program, or no pipeline to compile it with."""


class CalibrationError(GraphpressError):
    """A pipeline that needs data which a program alone does not have."""


def compile(
    exported_program: ExportedProgram, pipeline: Pipeline | str, *, hooks: Iterable[Hook] = ()
) -> ExportedProgram:
    """Run `pipeline` over a program, for toolchains that have one and want one.

    Args:
        exported_program: of `torch.export.export`; it is not changed, and its tensors are shared where passes leave
            them as they are.
        pipeline: a `Pipeline` or its text, such as ``"canonicalize,fold-batch-norm,dce"``.
        hooks: watch the steps; the graph is verified after each in any case.

    Returns:
        a program with the same signature. Dynamic shapes, mutations of buffers and tied weights are as they were.

    Raises:
        CompileError: when an argument is of another kind.
        CalibrationError: when quantizers are left that have seen no data.
        PipelineSyntaxError, PipelineError: when the text is no pipeline, or its steps are in the wrong order.
        GraphpressError: whatever a pass has to say about the program.
    """
    if not isinstance(exported_program, ExportedProgram):
        raise CompileError(
            f"compile() takes an ExportedProgram, not a {type(exported_program).__name__}; "
            "torch.export.export(model.eval(), example_inputs) makes one of a model"
        )
    if isinstance(pipeline, str):
        pipeline = Pipeline.parse(pipeline)
    if not isinstance(pipeline, Pipeline):
        raise CompileError(f"compile() takes a Pipeline or the text of one, not a {type(pipeline).__name__}")
    graph = from_exported_program(exported_program)
    graph = Runner(hooks=list(hooks)).run(graph, pipeline, in_place=True).graph
    _check_quantizers(graph)
    return to_exported_program(graph, _example_inputs(exported_program, graph))


def _check_quantizers(graph: Graph) -> None:
    """A quantizer without parameters lets its input through, so a program would come out that is not quantized."""
    empty = [n.name for n in graph.nodes if n.op.name == "quant.fake_quantize" and n.operand("scale") is None]
    if empty:
        raise CalibrationError(
            f"the pipeline leaves {len(empty)} quantizers without parameters, {empty[0]!r} first: these come from "
            "data; graphpress.quantization.Quantizer prepares, calibrates and finalizes a model"
        )


def _example_inputs(program: ExportedProgram, graph: Graph) -> Sequence[Any] | None:
    """The inputs the program was exported with, flat, where the graph still takes such; None where it does not."""
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
