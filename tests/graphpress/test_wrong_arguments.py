"""Something else than text, a graph, a pipeline or a program at the doors of the framework is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.casting import cast_to_16_bit_precision
from graphpress.compiling import CompileError
from graphpress.compressor import ArgumentTypeError
from graphpress.inspection import ModelInspector
from graphpress.inspection.types import NoSuchModuleError
from graphpress.ir import ExportError, ParseError, parse_graph
from graphpress.ir.torch.capture import from_exported_program, from_module
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.errors import PipelineError

torch.set_num_threads(1)

X = torch.ones(2, 8)


@pytest.mark.parametrize("text", [None, 3, ["dce"]])
def test_a_pipeline_or_a_graph_is_parsed_from_text(text):
    with pytest.raises(PipelineError, match="the text form of a pipeline is a str, not a"):
        Pipeline.parse(text)
    with pytest.raises(ParseError, match="a graph is parsed from a str, not a"):
        parse_graph(text)


def test_a_runner_takes_a_graph_and_a_pipeline():
    graph = from_module(nn.Linear(8, 4), (X,))
    with pytest.raises(PipelineError, match="not a Pipeline over a Linear"):
        Runner().run(nn.Linear(8, 4), Pipeline.parse("dce"))
    with pytest.raises(PipelineError, match="not a str over a Graph"):
        Runner().run(graph, "dce")


def test_a_module_in_place_of_a_program_is_told_what_captures_it():
    with pytest.raises(ExportError, match=r"expected an ExportedProgram, got a Linear; from_module"):
        from_exported_program(nn.Linear(8, 4))


def test_data_for_a_cast_is_iterable():
    program = torch.export.export(nn.Linear(8, 4).eval(), (X,))
    with pytest.raises(CompileError, match="calibration_data is a int; accepted: an iterable"):
        cast_to_16_bit_precision(program, calibration_data=3)


def test_names_for_an_inspector_are_text():
    inspector = ModelInspector(nn.Sequential(nn.Linear(8, 4)), X)
    for kind in ("op_type", "op_name", "module_name", "module_type"):
        with pytest.raises(ArgumentTypeError, match="is a str, not a int"):
            getattr(inspector, f"get_matched_ops_for_{kind}")(3)
    with pytest.raises(NoSuchModuleError, match="the path of a module is a str, not a int"):
        inspector.summary.model.get_submodule(3)


def test_an_eager_inspector_names_a_model_that_does_not_run():
    with pytest.raises(ExportError, match="Linear does not run on the example inputs: RuntimeError: mat1 and mat2"):
        ModelInspector(nn.Linear(8, 4), torch.ones(2, 9), "eager")
