from __future__ import annotations

import torch

from graphpress.ir.types import ScalarType, Symbol
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework.testing import GraphBuilder, f32, op_names
from tests.passes.quantization_graphs import random, run


def folded(b, *outputs, **options):
    return run(b.outputs(*outputs), FoldConstants(**options))


def test_what_depends_on_constants_alone_becomes_a_constant_named_after_the_first():
    b = GraphBuilder()
    weight = b.aten.neg(b.aten.mul.Tensor(b.constant("w", torch.ones(2, 4)), b.constant("g", torch.ones(1))))
    graph = folded(b, b.aten.add.Tensor(b.input(), weight))
    assert op_names(graph) == ["add"]
    assert [constant.name for constant in graph.constants.values()] == ["w_folded"]
    assert graph.node("add").operands["other"].constant.tensor.tolist() == [[-1.0] * 4] * 2


def test_what_reads_an_input_stays():
    b = GraphBuilder()
    assert op_names(folded(b, b.aten.mul.Tensor(b.input(), b.constant("w", torch.ones(4))))) == ["mul"]


def test_random_ops_and_ops_without_operands_stay():
    b = GraphBuilder()
    dropped = b.aten.dropout(b.constant("w", torch.ones(2, 4)), 0.5, True)
    zeros = b.aten.zeros((2, 4))
    graph = folded(b, b.aten.add.Tensor(b.input(), dropped), b.aten.add.Tensor(dropped, zeros))
    assert op_names(graph) == ["dropout", "zeros", "add", "add"]


def test_a_buffer_that_the_model_writes_to_is_not_constant():
    b = GraphBuilder()
    count = b.constant("count", torch.ones(1), "buffer")
    more = b.aten.add.Tensor(count, 1)
    b.write(count, more)
    assert op_names(folded(b, b.aten.add.Tensor(b.input(), more))) == ["add", "add"]


def test_compressed_weights_stay_packed():
    b = GraphBuilder()
    indices = b.constant("indices", torch.zeros(4, 4, dtype=torch.uint8), "buffer")
    weight = b.quant.lut_to_dense(indices, b.constant("lut", random(1, 1, 16, 1), "buffer"))
    assert op_names(folded(b, b.aten.linear(b.input(), weight))) == ["lut_to_dense", "linear"]


def test_an_op_whose_result_is_far_bigger_than_its_operands_stays():
    b = GraphBuilder()
    wide = b.aten.expand(b.constant("w", torch.ones(1, 4)), (2048, 4))
    b.outputs(b.aten.matmul(wide, b.input("x", f32[4, 2])))
    assert op_names(run(b.graph, FoldConstants())) == ["expand", "matmul"]
    assert op_names(run(b.graph, FoldConstants(growth=1e6))) == ["matmul"]


def test_all_results_of_an_op_are_folded():
    b = GraphBuilder()
    parts = b.node("aten.split.Tensor", b.constant("w", random(2, 4)), 1).results
    graph = folded(b, *(b.aten.add.Tensor(b.input(f"x{i}"), part) for i, part in enumerate(parts)))
    assert op_names(graph) == ["add", "add"]


def test_what_the_model_returns_may_be_a_constant():
    b = GraphBuilder()
    b.outputs(b.aten.relu(b.input()))
    graph = folded(b, b.aten.neg(b.constant("w", torch.ones(2))))
    assert graph.outputs[1].value.constant.tensor.tolist() == [-1.0, -1.0]


def test_a_result_that_is_no_tensor_keeps_its_op():
    b = GraphBuilder()
    size = b.node("aten.sym_size.int", b.constant("w", torch.ones(2, 4)), 0, types=[ScalarType("int")]).result
    graph = folded(b, b.aten.relu(b.input()), size)
    assert op_names(graph) == ["sym_size", "relu"]


def test_a_result_of_a_symbolic_shape_keeps_its_op():
    b = GraphBuilder()
    b.graph.symbols["s0"] = Symbol(1, None, 2)
    repeated = b.aten.relu(b.constant("w", torch.ones(2, 4)), types=[f32["s0", 4]])
    graph = folded(b, b.aten.neg(repeated, types=[f32["s0", 4]]))
    assert op_names(graph) == ["relu", "neg"]
