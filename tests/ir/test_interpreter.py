from __future__ import annotations

import copy

import pytest
import torch
import torch.utils._pytree as pytree

from graphpress.ir import Interpreter, InterpreterError, run, to_exported_program, to_graph_module
from graphpress.ir.dtypes import DType
from graphpress.passes.framework.testing import GraphBuilder
from tests.ir.zoo import ZOO, assert_same, captured, flat_inputs

torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_run_returns_what_the_model_returns_and_writes_nothing(name):
    build, args, kwargs, _ = ZOO[name]
    model, graph, inputs = build(), captured(name), flat_inputs(name)
    before = {n: c.tensor.clone() for n, c in graph.constants.items()}
    execution = Interpreter(graph).execute(inputs)
    given = copy.deepcopy((args, kwargs))
    with torch.no_grad():  # LSTM has another kernel there
        expected = pytree.tree_leaves(model(*given[0], **given[1]))
    assert_same(execution.outputs, expected)
    assert_same(inputs, flat_inputs(name))
    assert_same({n: c.tensor for n, c in graph.constants.items()}, before)
    written = (
        dict(model.named_buffers())
        | dict(model.named_parameters())
        | dict(zip((i.name for i in graph.inputs), pytree.tree_leaves(given), strict=False))
    )
    for target, tensor in execution.mutations.items():
        assert torch.equal(tensor, written[target])


def test_mutations_are_named():
    assert set(Interpreter(captured("CountingBuffer")).execute(flat_inputs("CountingBuffer")).mutations) == {
        "calls",
        "mean",
    }
    assert set(Interpreter(captured("WritesToInput")).execute(flat_inputs("WritesToInput")).mutations) == {"x"}


def test_every_node_can_be_observed_in_order():
    graph = captured("ManyResults")
    seen = []
    Interpreter(graph, observe=lambda node, results: seen.append((node, len(results)))).run(flat_inputs("ManyResults"))
    assert seen == [(node, len(node.results)) for node in graph.nodes]


def test_fixed_inputs_may_be_left_out():
    graph, inputs = captured("NoneAndNumbers"), flat_inputs("NoneAndNumbers")
    assert torch.equal(run(graph, inputs)[0], run(graph, inputs[:1])[0])


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(InterpreterError, match=r"takes 1 inputs \(x\), got 2"):
        run(captured("Identity"), [torch.ones(1), torch.ones(1)])
    with pytest.raises(InterpreterError, match="input 'x' is f32"):
        run(captured("Identity"), [None])


def test_a_node_that_fails_is_named():
    graph = captured("ConvBnInplaceRelu")
    with pytest.raises(InterpreterError, match=r"conv2d \(aten.conv2d\), from features.0 \(Conv2d\) at .*zoo.py:\d+: "):
        run(graph, [torch.ones(2, 5, 8, 8)])


def test_a_mapping_of_attributes_and_values_reaches_ops_of_ours():
    build = GraphBuilder()
    scale = build.constant("scale", torch.tensor(0.5), "buffer")
    graph = build.outputs(build.quant.quantize(build.input(), scale, dtype=DType.INT4))
    data = torch.tensor([[0.2, 0.3, 10.0, -10.0], [1.0, 2.0, 3.0, 4.0]])
    expected = torch.tensor([[0, 1, 7, -8], [2, 4, 6, 7]], dtype=torch.int8)
    assert torch.equal(run(graph, [data])[0], expected)
    emitted = to_graph_module(graph)
    assert torch.equal(emitted(data), expected)
    assert torch.equal(copy.deepcopy(emitted)(data), expected)
    assert torch.equal(to_exported_program(graph).module()(data), expected)
