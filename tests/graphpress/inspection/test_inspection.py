"""A model inspected: its modules and ops by the names that configs use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from graphpress.compressor import ArgumentTypeError
from graphpress.inspection import BoundaryEdge, ModelInspector, OpInfo
from graphpress.inspection.types import NoSuchModuleError
from graphpress.palettization import KMeansPalettizer
from graphpress.passes.config import InvalidExecutionModeError
from graphpress.quantization import ModuleQuantizerConfig, Quantizer, QuantizerConfig

IMAGE = torch.randn(1, 3, 8, 8)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x)) + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()
        self.head = nn.Linear(3, 5)
        self.unused = nn.Identity()

    def forward(self, image):
        return self.head(self.second(self.first(image)).mean((2, 3)))


@pytest.fixture(scope="module", params=["graph", "eager"])
def inspector(request) -> ModelInspector:
    return ModelInspector(Net(), (IMAGE,), request.param)


def is_eager(inspector: ModelInspector) -> bool:
    return "." in inspector.get_matched_ops_for_op_type("linear")[0].op_name


def names(ops: Iterable[OpInfo]) -> list[str]:
    return [op.op_name for op in ops]


def test_every_op_is_in_its_innermost_module(inspector):
    ops = {name: [op.op_type for op in module.ops] for name, module in inspector.summary.model.named_modules()}
    assert ops == {
        "": ["mean"],
        "first": ["add"],
        "first.conv": ["conv2d"],
        "first.relu": ["relu"],
        "second": ["add"],
        "second.conv": ["conv2d"],
        "second.relu": ["relu"],
        "head": ["linear"],
        "unused": [],
    }


def test_the_tree_is_walked_as_modules_are(inspector):
    model = inspector.summary.model
    assert [name for name, _ in model.named_children()] == ["first", "second", "head", "unused"]
    assert [child.type_name for child in model.children()] == ["Block", "Block", "Linear", "Identity"]
    assert [module.module_name for module in model.modules()] == [name for name, _ in Net().named_modules()]
    first = model.get_submodule("first")
    assert first.get_submodule("conv") is model.get_submodule("first.conv")
    assert first.get_submodule("") is first
    assert first.get_submodule("first.conv") is first.get_submodule("conv") is first.child_modules["first.conv"]
    assert [op.op_type for op in first.all_ops()] == ["add", "conv2d", "relu"]
    with pytest.raises(NoSuchModuleError, match=r"no module 'first.cnv' in the model; did you mean 'first.conv'"):
        model.get_submodule("first.cnv")


def test_an_op_tells_what_it_reads_who_reads_it_and_where_it_is_called(inspector):
    conv, _ = inspector.get_matched_ops_for_op_type("conv2d")
    add, _ = inspector.get_matched_ops_for_op_type("add")
    relu, _ = inspector.get_matched_ops_for_op_type("relu")
    (linear,) = inspector.get_matched_ops_for_op_type("linear")
    assert [(edge.op_name, edge.is_state) for edge in conv.inputs[1:]] == [
        ("first.conv.weight", True),
        ("first.conv.bias", True),
    ]
    assert not conv.inputs[0].is_state
    assert conv.inputs[0].op.outputs[0][0] is conv
    assert conv.outputs == {0: (relu,)}
    assert add.inputs[0].op is relu
    (end,) = linear.outputs[0]
    assert (end.op_name.partition("_")[0], end.op_type, end.module_stack, end.outputs) == ("output", None, (), {})
    assert [scope.module_name for scope in conv.module_stack] == ["", "first", "first.conv"]
    assert conv.module_name == "first.conv"
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    file, _, line = conv.source.rpartition(":")
    assert file == __file__
    assert "self.relu(self.conv(x)) + x" in lines[int(line) - 1]
    assert conv.source_frames[-1].code_context == "return self.relu(self.conv(x)) + x"
    assert {frame.function_name for frame in conv.source_frames} == {"forward"}
    assert len(conv.source_frames) == (2 if is_eager(inspector) else 1)


def test_a_module_tells_which_ops_its_inputs_and_outputs_are(inspector):
    model = inspector.summary.model
    first, second = model.get_submodule("first"), model.get_submodule("second")
    conv, other = inspector.get_matched_ops_for_op_type("conv2d")
    add, last = inspector.get_matched_ops_for_op_type("add")
    (linear,) = inspector.get_matched_ops_for_op_type("linear")
    assert {(edge.op.op_name, edge.index) for edge in first.input_ops[0]} == {(conv.op_name, 0), (add.op_name, 1)}
    assert {(edge.op.op_name, edge.index) for edge in second.input_ops[0]} == {(other.op_name, 0), (last.op_name, 1)}
    assert first.output_ops == {0: BoundaryEdge(add, 0)}
    assert model.output_ops == {0: BoundaryEdge(linear, 0)}
    assert [edge.op for edge in model.input_ops[0]] == [conv, add]
    assert inspector.summary.mode == ("eager" if is_eager(inspector) else "graph")


def test_boundaries_and_edges_go_through_ops_that_are_not_listed():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, y):
            return torch.cumsum(self.a(x), 1) * self.b(y)

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(*torch.chunk(x, 2, -1))

    for mode in ("graph", "eager"):
        found = ModelInspector(Halves(), torch.randn(1, 8), mode, Quantizer)
        a, b = found.get_matched_ops_for_op_type("linear")
        pair = found.summary.model.child_modules["pair"]
        assert {index: [edge.op for edge in edges] for index, edges in pair.input_ops.items()} == {0: [a], 1: [b]}
        (mul,) = found.get_matched_ops_for_op_type("mul")
        assert mul.inputs[0].op_type == "cumsum"
        assert mul.inputs[0].inputs[0].op is a
        assert [edge.output_idx for edge in (a.inputs[0], b.inputs[0])] == [0, 1]


def test_tensors_that_are_no_state_are_untracked_in_eager_mode():
    bias = torch.ones(8)

    class Shifted(nn.Module):
        def forward(self, x):
            return x + bias

    (add,) = ModelInspector(Shifted(), torch.randn(2, 8), "eager").summary.ops
    assert [edge.op_name for edge in add.inputs] == ["input_0", "untracked_0"]
    assert not any(edge.is_state for edge in add.inputs)


def test_names_are_those_of_the_mode():
    graph, eager = (ModelInspector(Net(), (IMAGE,), mode).summary.ops for mode in ("graph", "eager"))
    assert {"conv2d", "conv2d_1", "linear"} <= set(names(graph))
    assert {"first.conv.conv2d", "second.conv.conv2d", "head.linear", "mean", "first.add"} <= set(names(eager))


def test_ops_are_found_as_config_entries_find_them(inspector):
    assert len(inspector.get_matched_ops_for_op_type("aten.conv2d.default")) == 2
    assert inspector.get_matched_ops_for_op_type("softmax") == ()
    one = inspector.summary.ops[2]
    assert inspector.get_matched_ops_for_op_name(one.op_name) == (one,)
    assert len(inspector.get_matched_ops_for_op_name(".*conv2d.*")) == 2
    assert inspector.get_matched_ops_for_op_name("onv2d") == ()
    assert [op.op_type for op in inspector.get_matched_ops_for_module_name("second")] == ["add", "conv2d", "relu"]
    assert len(inspector.get_matched_ops_for_module_name("(first|second).conv")) == 2
    assert len(inspector.get_matched_ops_for_module_name("")) == 8
    assert len(inspector.get_matched_ops_for_module_type(Block)) == 6
    for kind in (nn.Conv2d, "torch.nn.Conv2d", "torch.nn.modules.conv.Conv2d", "Conv2d"):
        assert len(inspector.get_matched_ops_for_module_type(kind)) == 2


def test_a_name_found_here_is_the_one_a_config_takes():
    (op, _) = ModelInspector(Net(), (IMAGE,)).get_matched_ops_for_op_type("conv2d")
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_name_config={op.op_name: None}))
    prepared = Quantizer(Net(), config).prepare((IMAGE,))
    quantizers = {name for name, _ in prepared.named_modules() if name.endswith("_weight")}
    assert not any("conv2d_weight" in name for name in quantizers)
    assert any("conv2d_1_weight" in name for name in quantizers)


@pytest.mark.parametrize("compressor", [KMeansPalettizer, KMeansPalettizer(Net())])
def test_for_a_palettizer_only_ops_with_weights_are_listed_by_its_names(compressor):
    found = ModelInspector(Net(), (IMAGE,), compressor=compressor).summary.ops
    assert names(found) == ["first.conv.conv2d", "second.conv.conv2d", "head.linear"]


def test_for_a_quantizer_ops_that_it_leaves_alone_are_not_listed():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(torch.relu(x), 1) + 1

    for mode in ("graph", "eager"):
        all_ops = ModelInspector(Odd(), (IMAGE,), mode).summary.ops
        found = ModelInspector(Odd(), (IMAGE,), mode, Quantizer).summary.ops
        assert [op.op_type for op in all_ops] == ["relu", "cumsum", "add"]
        assert "cumsum" not in [op.op_type for op in found]


def test_the_summary_is_a_tree_of_lines(inspector):
    plain = inspector.format_summary(colorize=False)
    lines = plain.splitlines()
    assert lines[0] == "Net: 8 ops"
    assert len(lines) == 1 + 8 + 8  # the model, its ops, its modules
    assert "\x1b" not in plain
    assert any(line.startswith("├─ first Block") for line in lines)
    conv = "first.conv.conv2d" if is_eager(inspector) else "conv2d"
    assert any(f"└─ {conv}(" in line and "first.conv.weight" in line for line in lines)
    coloured = inspector.format_summary()
    assert "\x1b[1m" in coloured
    bare = coloured
    for style in ("\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[32m", "\x1b[0m"):
        bare = bare.replace(style, "")
    assert bare == plain


def test_the_model_stays_as_it_is():
    model = Net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    types = [type(module) for module in model.modules()]
    for mode in ("graph", "eager"):
        ModelInspector(model, IMAGE, mode)
    assert model.training
    assert [type(module) for module in model.modules()] == types
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"takes a torch\.nn\.Module or an ExportedProgram, not a int"):
        ModelInspector(3, (IMAGE,))
    with pytest.raises(InvalidExecutionModeError, match="'graf'; accepted: 'graph', 'eager'"):
        ModelInspector(Net(), (IMAGE,), "graf")
    with pytest.raises(ArgumentTypeError, match="compressor is a Net"):
        ModelInspector(Net(), (IMAGE,), compressor=Net())
