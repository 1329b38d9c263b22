from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from graphpress.ir import (
    ExportError,
    from_exported_program,
    from_module,
    run,
    to_exported_program,
    to_graph_module,
    verify,
)
from tests.ir.zoo import ROWS, ZOO, assert_same, captured, owning_its_tensors

torch.set_num_threads(1)
NAMES = sorted(ZOO)


def assert_runs_like(name, emitted):
    """Two calls, so that what the first one wrote is read by the second."""
    build, args, kwargs, _ = ZOO[name]
    model = build()
    for _ in range(2):
        got, expected = copy.deepcopy((args, kwargs)), copy.deepcopy((args, kwargs))
        assert_same(emitted(*got[0], **got[1]), model(*expected[0], **expected[1]))
        assert_same(got, expected)
    theirs = dict(model.named_buffers())
    for buffer_name, buffer in emitted.named_buffers():
        if buffer_name in theirs:
            assert torch.equal(buffer, theirs[buffer_name]), buffer_name


@pytest.mark.parametrize("name", NAMES)
def test_an_emitted_module_runs_like_the_model(name):
    assert_runs_like(name, to_graph_module(captured(name), copy_constants=True))


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_program_runs_like_the_model(name):
    program = to_exported_program(owning_its_tensors(captured(name)))
    assert_runs_like(name, program.module())


@pytest.mark.parametrize("name", NAMES)
def test_an_emitted_module_survives_deepcopy_and_saving(name):
    emitted = to_graph_module(captured(name), copy_constants=True)
    file = io.BytesIO()
    torch.save(emitted, file)
    file.seek(0)
    for again in (copy.deepcopy(emitted), torch.load(file, weights_only=False)):
        assert list(again.state_dict()) == list(emitted.state_dict())
        assert [node.name for node in again.graph.nodes] == [node.name for node in emitted.graph.nodes]
        assert_runs_like(name, again.train().eval())


@pytest.mark.parametrize("name", ["ConvBnInplaceRelu", "DynamicImage", "KeyValueCache", "TiedEmbedding", "Condition"])
def test_an_imported_exported_program_is_the_same_graph_again(name):
    graph = captured(name)
    again = from_exported_program(to_exported_program(owning_its_tensors(graph)))
    assert [node.op for node in again.nodes] == [node.op for node in graph.nodes]
    assert [node.location.scopes for node in again.nodes] == [node.location.scopes for node in graph.nodes]
    assert [(o.kind, at_hints(o, again)) for o in again.outputs] == [
        (o.kind, at_hints(o, graph)) for o in graph.outputs
    ]
    assert [c.names for c in again.constants.values()] == [c.names for c in graph.constants.values()]


def at_hints(output, graph):
    return output.value.type.at({name: symbol.hint for name, symbol in graph.symbols.items()})


def ops(name):
    return [node.op.name for node in captured(name).nodes]


def test_whole_layers_stay_whole_and_in_place_activations_become_values():
    expected = ["aten.conv2d", "aten.batch_norm", "aten.relu", "aten.conv2d", "aten.hardtanh"]
    assert ops("ConvBnInplaceRelu") == expected


def test_a_write_through_a_view_leaves_no_write_in_the_graph():
    for name in NAMES:
        assert all(node.op.name[-1] != "_" for node in captured(name).nodes), name


def test_a_view_that_is_dead_does_not_cost_another_trace(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the program was traced again")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", refuse)
    build, args, kwargs, _ = ZOO["ViewThatDiesBeforeTheWrite"]
    graph = from_module(build(), args, kwargs)
    assert [node for node in graph.nodes if node.op.name.endswith("_")] == []


def step_by_step(x):
    y = torch.zeros_like(x)
    for place in range(x.shape[1]):
        y[:, place] = x[:, place] * 2 + y[:, place - 1]
    return y


def part_of_a_part(x):
    y = x.clone()
    y[:, 1][:, :2] = 7
    y[..., 1].mul_(3)
    return y


def views_are_taken_again(x):
    y = x.clone()
    row, turned = y[0], y.transpose(0, 1)[1:]
    first = row[:2]
    y[:, 0] = -1
    row.add_(1)
    return y, first * 2, turned


def written_as_a_whole(x):
    y = x.clone()
    column = y[:, 1].unsqueeze(-1)
    y.mul_(2)
    return column + y[:, :1], y


def diagonal_of_a_product(x):
    y = x @ x.transpose(1, 2)
    y.diagonal(dim1=1, dim2=2).copy_(x[..., 0].double())
    return y


def state_of_the_caller(x):
    x[:, 1:, ::2] = 0
    return x.sum(1)


@pytest.mark.parametrize(
    "compute",
    [
        step_by_step,
        part_of_a_part,
        views_are_taken_again,
        written_as_a_whole,
        diagonal_of_a_product,
        state_of_the_caller,
    ],
)
def test_writes_through_views_become_values_without_another_trace(compute, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the program was traced again")

    class Model(nn.Module):
        def forward(self, x):
            return compute(x)

    x = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", refuse)
    graph = from_module(Model(), (x.clone(),))
    verify(graph)
    assert [node for node in graph.nodes if node.op.name.endswith("_")] == []
    given = x.clone()
    wanted = compute(given)
    results = run(graph, [x.clone()])
    by_kind = [(output.kind, result) for output, result in zip(graph.outputs, results, strict=False)]
    for ours, theirs in zip([r for kind, r in by_kind if kind == "user"], _listed(wanted), strict=True):
        assert torch.equal(ours, theirs)
    mutations = [output for output in graph.outputs if output.kind == "input_mutation"]
    assert len(mutations) == (not torch.equal(given, x))


def _listed(results):
    return list(results) if isinstance(results, tuple) else [results]


def test_tied_weights_are_one_constant_with_every_name():
    graph = captured("TiedEmbedding")
    assert graph.constants["embed.weight"].names == ("embed.weight", "head.weight")
    emitted = to_graph_module(graph)
    assert emitted.embed.weight is emitted.head.weight
    assert set(emitted.state_dict()) == {"embed.weight", "head.weight", "body.weight", "body.bias"}
    exported = to_exported_program(graph).state_dict
    assert exported["embed.weight"].data_ptr() == exported["head.weight"].data_ptr()


def test_weights_tied_by_memory_alone_are_found():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.b.weight.data = self.a.weight.data

        def forward(self, x):
            return self.b(self.a(x))

    assert [c.names for c in from_module(Model(), (ROWS,)).constants.values()] == [("a.weight", "b.weight")]


def test_unused_parameters_are_left_out():
    assert list(captured("ReturnsParameter").constants) == ["weight"]


def test_constants_know_what_they_are():
    kinds = {name: (c.kind, c.persistent) for name, c in captured("CountingBuffer").constants.items()}
    assert kinds == {"calls": ("buffer", True), "mean": ("buffer", True), "offset": ("buffer", False)}
    literals = {name: c.kind for name, c in captured("PlainTensors").constants.items()}
    assert literals["table"] == literals["lifted_tensor_0"] == "literal"
    assert set(to_graph_module(captured("CountingBuffer")).state_dict()) == {"calls", "mean"}


def test_locations_name_modules_and_the_users_line():
    node = captured("ConvBnInplaceRelu").node("conv2d")
    scopes = [(scope.path, scope.type_name.rpartition(".")[2]) for scope in node.location.scopes]
    assert scopes == [("", "ConvBnInplaceRelu"), ("features", "Sequential"), ("features.0", "Conv2d")]
    origin = node.location.origins[0]
    assert origin.file.endswith("zoo.py")
    assert "self.features(x)" in Path(origin.file).read_text().splitlines()[origin.line - 1]


def test_a_module_called_twice_has_one_path():
    assert {node.location.module_path for node in captured("SharedModule").nodes} == {"linear", "act"}


def test_module_paths_survive_a_second_capture_of_what_was_emitted():
    graph = captured("ConvBnInplaceRelu")
    _, args, _, _ = ZOO["ConvBnInplaceRelu"]
    again = from_module(to_graph_module(graph), args)
    assert [node.location for node in again.nodes] == [node.location for node in graph.nodes]
    assert [node.name for node in again.nodes] == ["conv2d", "batch_norm", "relu", "conv2d_1", "hardtanh"]


def test_dynamic_shapes_survive_the_round_trip():
    graph = captured("DynamicImage")
    again = from_exported_program(to_exported_program(graph))
    (x,), (y,) = graph.inputs, again.inputs
    assert len(graph.symbols) == len(again.symbols) == 3
    assert sorted(map(str, graph.symbols.values())) == sorted(map(str, again.symbols.values()))
    assert y.value.type.at({n: s.hint for n, s in again.symbols.items()}).shape == (2, 3, 12, 16)
    assert not x.value.type.is_static
    larger = torch.randn(5, 3, 20, 24)
    assert_same(to_graph_module(again)(larger), to_graph_module(graph)(larger))


def test_a_training_programs_running_statistics_survive():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    x = torch.randn(2, 3, 8, 8)
    graph = from_exported_program(torch.export.export(copy.deepcopy(model), (x,)))
    kinds = {output.target.name for output in graph.outputs if output.kind == "buffer_mutation"}
    assert kinds == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    emitted = to_graph_module(graph, copy_constants=True)
    for _ in range(2):
        assert torch.equal(emitted(x), model(x))
    assert_same(dict(emitted.named_buffers()), dict(model.named_buffers()))


def test_an_exported_module_goes_through_the_same_door():
    build, args, _, _ = ZOO["ConvBnInplaceRelu"]
    model = build()
    graph = from_module(torch.export.export(model, args).module(), args)
    assert [node.op.name for node in graph.nodes] == ops("ConvBnInplaceRelu")
    assert torch.equal(run(graph, args)[0], model(*args))


def test_the_users_module_is_left_as_it_was():
    build, args, _, _ = ZOO["CountingBuffer"]
    model = nn.Sequential(build(), nn.Dropout())
    model.train()
    model[0].eval()
    before = copy.deepcopy(model.state_dict())
    graph = from_module(model[0], args)
    run(graph, list(args))
    to_graph_module(graph, copy_constants=True)(*args)
    assert [m.training for m in model.modules()] == [True, False, True]
    assert_same(model.state_dict(), before)


def test_what_forward_leaves_on_the_module_is_taken_off_again():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            self.last = x + 1
            self.seen.append(self.last)
            return self.last

    model = Model()
    state = torch.get_rng_state()
    from_module(model, (ROWS,))
    assert not hasattr(model, "last")
    assert model.seen == []
    assert torch.equal(torch.get_rng_state(), state)


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def test_a_module_that_cannot_be_exported_names_the_line_and_keeps_its_mode():
    model = Branching().train()
    with pytest.raises(
        ExportError, match=r"cannot export Branching at .*test_import_export.py:\d+: `if x.sum"
    ) as caught:
        from_module(model, (ROWS,))
    assert caught.value.__cause__ is not None
    assert model.training


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "x"),
        ((ROWS, ROWS), "positional"),
        ((torch.randn(2, 5),), "cannot export Linear: .*"),
        ({"x": ROWS}, "expected a tuple of positional inputs, got dict"),
    ],
)
def test_example_inputs_that_do_not_fit_are_our_error(args, message):
    with pytest.raises(ExportError, match=message):
        from_module(nn.Linear(6, 2), args)


def test_modules_can_stand_for_nodes():
    graph = captured("ConvBnInplaceRelu")
    build, args, _, _ = ZOO["ConvBnInplaceRelu"]

    def module_for(node):
        if node.op.short_name != "relu":
            return None
        return "features.2", nn.Hardtanh(0.0, 1e9), [node.operands["self"]]

    emitted = to_graph_module(graph, module_for=module_for)
    assert isinstance(emitted.features.get_submodule("2"), nn.Hardtanh)
    assert torch.equal(emitted(*args), build()(*args))
    assert torch.equal(copy.deepcopy(emitted)(*args), build()(*args))


def test_names_that_modules_refuse_are_made_safe():
    emitted = to_graph_module(captured("NamesThatCollide"))
    assert emitted.code != emitted._modules.get("code")
    assert_runs_like("NamesThatCollide", emitted)
