"""What a model calls as it runs, and how its ops are named."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphpress.eager import recorded


class Calls(nn.Module):
    """A module whose forward is a function of the test's."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("table", torch.randn(4))
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *args):
        return self.function(self, *args)


def recording(function, *args, **children):
    model = Calls(function, **children).eval()
    return recorded(model, lambda: model(*(args or (torch.randn(2, 4),))))


def names(function, *args, **children):
    return [op.qualified_name for op in recording(function, *args, **children).ops]


def test_ops_of_one_type_are_numbered_in_the_module_that_calls_them():
    assert names(lambda m, x: (x + 1) * (x + 2) + m.fc(x), fc=nn.Linear(4, 4)) == [
        "add",
        "add_1",
        "mul",
        "fc.linear",
        "add_2",
    ]


def test_a_module_that_is_called_again_calls_the_same_ops():
    assert names(lambda m, x: m.fc(m.fc(x)), fc=nn.Linear(4, 4)) == ["fc.linear", "fc.linear"]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x + x,
        lambda m, x: torch.add(x, x),
        lambda m, x: x.add(x),
        lambda m, x: x.clone().add_(x),
        lambda m, x: x.clone().__iadd__(x),
        lambda m, x: 1 + x,
    ],
)
def test_an_op_has_one_name_however_it_is_spelled(function):
    assert [op.op_type for op in recording(function).ops if op.op_type != "clone"] == ["add"]


def test_a_loop_makes_a_further_op_at_each_round():
    def loop(module, x):
        for _ in range(3):
            x = x * x
        return x

    assert names(loop) == ["mul", "mul_1", "mul_2"]


def branching(module, x):
    if x.sum() > 0:
        x = x * 2
        x = x + 1
    return x + x


def test_a_branch_taken_later_renames_nothing():
    model = Calls(branching)
    down, up = -torch.ones(2, 4), torch.ones(2, 4)
    runs = []
    recording = recorded(model, lambda: [runs.append(model(x)) for x in (down, up, down)])
    taken = [op.name for op in recording.ops if op.op_type == "add"]
    assert taken == ["add", "add_1", "add", "add"]


def helper(x):
    return x * 2


def test_calls_through_a_function_are_told_apart_by_where_it_is_called():
    assert names(lambda m, x: helper(x) - helper(x)) == ["mul", "mul_1", "sub"]


def test_attention_is_looked_into():
    x = torch.randn(1, 3, 4)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    found = recording(lambda m, x: m.attn(x, x, x, need_weights=False)[0], x, attn=attention)
    types = [op.op_type for op in found.ops if op.op_type in ("linear", "scaled_dot_product_attention")]
    assert types == ["linear", "scaled_dot_product_attention", "linear"]
    assert {op.calls.path for op in found.ops} == {"attn"}


def test_operands_know_the_states_they_are_made_of():
    found = recording(lambda m, x: F.linear(x, m.weight.t()) + m.table.exp() * 2 + x.new_zeros(4))
    linear = next(op for op in found.ops if op.op_type == "linear")
    assert [(use.name, use.states, use.is_view) for use in linear.operands] == [
        ("input", None, False),
        ("weight", ("weight",), True),
    ]
    first, second = (op for op in found.ops if op.op_type == "add")
    assert (first.operands[1].states, first.operands[1].is_view) == (("table",), False)
    assert second.operands[1].states is None


def test_a_state_that_is_written_to_is_data():
    def update(module, x):
        module.table[:2] = x[0, :2]
        return x + module.table

    assert recording(update).ops[-1].operands[1].states is None


def test_results_know_who_made_them():
    found = recording(lambda m, x: torch.relu(m.fc(x)), fc=nn.Linear(4, 4))
    linear, relu = found.ops
    assert relu.operands[0].producer == (linear, 0)
    assert found.modules[0].outputs[0].producer == (linear, 0)


def test_recording_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError):
        recorded(model, lambda: model(torch.randn(2, 5)))
    assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]
    assert [set(vars(a)) for a in model.modules()] == [set(vars(b)) for b in before.modules()]
    assert torch.overrides._get_current_function_mode() is None


def test_results_are_those_of_the_model():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train()
    x = torch.randn(2, 5, 8)
    torch.manual_seed(0)
    expected = model(x)
    got = []
    torch.manual_seed(0)
    recorded(model, lambda: got.append(model(x)))
    assert torch.equal(got[0], expected)


@pytest.mark.parametrize("package", ["eager", "quantization", "palettization", "search", "compressor"])
def test_packages_can_be_imported_in_any_order(package):
    command = [sys.executable, "-c", f"import graphpress.{package}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
