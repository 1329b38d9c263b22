from __future__ import annotations

import torch

from graphpress.passes.dce import Dce
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import GraphBuilder, f32, op_names


def run(graph):
    return Runner(verify=False).run(graph, Pipeline(Dce()))


def test_chains_that_nothing_reads_go_in_one_sweep():
    builder = GraphBuilder()
    x = builder.input()
    kept = builder.aten.relu(x)
    builder.aten.neg(builder.aten.sigmoid(builder.aten.tanh(kept)))
    result = run(builder.outputs(kept))
    assert op_names(result.graph) == ["relu"]
    assert result.records[0].statistics == {"nodes": 3}


def test_one_read_result_keeps_a_node_and_so_does_an_effect():
    builder = GraphBuilder()
    x = builder.input()
    split = builder.node("aten.split.Tensor", x, 2, 1)
    builder.node("aten._assert_scalar", 1, "message", types=())
    assert op_names(run(builder.outputs(split.results[1])).graph) == ["split", "_assert_scalar"]


def test_unread_constants_go_unless_the_graph_writes_to_them():
    builder = GraphBuilder()
    x = builder.input("x", f32[3])
    used, unused, written = (builder.constant(name, torch.ones(3), "buffer") for name in ("used", "unused", "written"))
    builder.aten.mul.Tensor(x, unused)
    kept = builder.aten.add.Tensor(x, used)
    builder.write(written, kept)
    result = run(builder.outputs(kept))
    assert list(result.graph.constants) == ["used", "written"]
    assert result.records[0].statistics == {"nodes": 1, "constants": 1}
    assert result.records[0].constants == 1
