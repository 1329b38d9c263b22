from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

import graphpress
from graphpress import pipelines
from graphpress.compiling import CalibrationError, CompileError
from graphpress.ir.errors import GraphpressError
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.dce import Dce
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.framework import Hook, Pipeline


class Counter(nn.Module):
    """A conv and batch norm, two tied linears, and a buffer that counts the calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("calls", torch.zeros(()))
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x, scale=1.0):
        self.calls.add_(1)
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.second(self.first(x)) * scale


PIPELINE = Pipeline(Canonicalize(), FoldBatchNorm(), Dce())


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    batch = Dim("batch", min=2, max=64)
    return torch.export.export(
        Counter().eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes={"x": {0: batch}}, strict=False
    )


@pytest.fixture(scope="module")
def compiled(program):
    return graphpress.compile(program, PIPELINE)


def bounds(program):
    return [(int(bound.lower), int(bound.upper)) for bound in program.range_constraints.values()]


def calls(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_passes_run_and_the_numbers_stay(program, compiled):
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(compiled.module()(x), program.module()(x), rtol=1e-4, atol=1e-5)
    assert any("batch_norm" in call for call in calls(program))
    assert not any("batch_norm" in call for call in calls(compiled))


def test_the_text_of_a_pipeline_does_the_same(program, compiled):
    assert calls(graphpress.compile(program, str(PIPELINE))) == calls(compiled)


def test_the_batch_stays_dynamic_within_its_bounds(program, compiled):
    x = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(compiled.module()(x), program.module()(x), rtol=1e-4, atol=1e-5)
    assert bounds(compiled) == bounds(program)


def test_buffers_are_still_written_to(compiled):
    module = compiled.module()
    before = module.calls.item()
    module(torch.randn(2, 3, 8, 8))
    module(torch.randn(2, 3, 8, 8))
    assert module.calls.item() == before + 2


def test_tied_weights_stay_tied(compiled):
    state = compiled.state_dict
    assert state["first.weight"].data_ptr() == state["second.weight"].data_ptr()


def test_the_given_program_is_left_as_it_was(program):
    before = (calls(program), {name: tensor.clone() for name, tensor in program.state_dict.items()})
    graphpress.compile(program, PIPELINE)
    assert calls(program) == before[0]
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in program.state_dict.items())


def test_the_example_inputs_go_along(program, compiled):
    torch.testing.assert_close(compiled.example_inputs[0][0], program.example_inputs[0][0])


def test_hooks_watch_the_steps(program):
    class Watch(Hook):
        def __init__(self):
            self.seen = []

        def after(self, step, *_, **__):
            self.seen.append(step.address)

    watch = Watch()
    graphpress.compile(program, PIPELINE, hooks=[watch])
    assert watch.seen == ["canonicalize#1", "fold-batch-norm#1", "dce#1"]


def test_a_module_is_refused_with_the_way_to_a_program():
    with pytest.raises(CompileError, match=r"not a Linear; torch\.export\.export"):
        graphpress.compile(nn.Linear(2, 2), PIPELINE)


def test_what_is_no_pipeline_is_refused(program):
    with pytest.raises(CompileError, match="not a list"):
        graphpress.compile(program, [Dce()])
    with pytest.raises(GraphpressError, match="did you mean 'dce'"):
        graphpress.compile(program, "dcee")


def test_quantizers_that_saw_no_data_are_refused(program):
    with pytest.raises(CalibrationError, match=r"\d+ quantizers without parameters.*Quantizer prepares"):
        graphpress.compile(program, pipelines.prepare())
