from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.ir.inference import infer_types
from graphpress.ir.ops import lookup_op
from graphpress.ir.torch.capture import from_module
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.framework import run_pass

BATCH = {0: torch.export.Dim("batch", min=2)}


class Gate(nn.Module):
    def forward(self, x, y):
        return (x.flatten(0, 1) * y).sigmoid()


def inferred(op, *names, shapes=((3, 5, 8), (8,)), dynamic=(BATCH, None), **attributes):
    graph = from_module(Gate(), tuple(map(torch.zeros, shapes)), dynamic_shapes=dynamic)
    flat = next(node for node in graph.nodes if node.op.family == "flatten").result
    values = {"flat": flat, "x": graph.inputs[0].value, "y": graph.inputs[1].value}
    op = lookup_op(op)
    operands = dict(
        zip((parameter.name for parameter in op.parameters), (values[name] for name in names), strict=False)
    )
    types = infer_types(op, operands, attributes, graph.symbols)
    return flat.type, types


@pytest.mark.parametrize("names", [("flat", "y"), ("y", "flat"), ("flat", "flat")])
def test_an_elementwise_op_on_a_computed_dim_has_the_type_that_broadcasting_gives(names):
    flat, types = inferred("aten.mul.Tensor", *names)
    assert not flat.is_static
    assert types == (flat,)


def test_the_element_type_of_a_symbolic_result_is_that_of_torch():
    flat, types = inferred("aten.lt.Tensor", "flat", "y")
    assert [(str(made.dtype.value), made.shape) for made in types] == [("bool", flat.shape)]


def test_dims_that_only_agree_at_the_example_are_not_inferred():
    class Sum(nn.Module):
        def forward(self, x, y):
            return x.sigmoid(), y.sigmoid()

    free = {0: torch.export.Dim.AUTO}
    graph = from_module(Sum(), (torch.zeros(4, 8), torch.zeros(4, 8)), dynamic_shapes=(free, free))
    x, y = (entry.value for entry in graph.inputs)
    assert x.type != y.type
    assert infer_types(lookup_op("aten.mul.Tensor"), {"self": x, "other": y}, {}, graph.symbols) is None


def test_the_product_of_a_value_and_its_sigmoid_is_fused_at_a_dynamic_batch():
    class Silu(nn.Module):
        def forward(self, x):
            return x * x.sigmoid()

    graph = from_module(Silu(), (torch.zeros(3, 8),), dynamic_shapes=(BATCH,))
    done = run_pass(Canonicalize(), graph).graph
    assert [node.op.name for node in done.nodes] == ["aten.silu"]
    assert next(iter(done.nodes)).result.type == graph.inputs[0].value.type
