from __future__ import annotations

import pytest
import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.interpreter import run as interpret
from graphpress.passes.analysis.facts import CONSTANTS_FOLDED, QUANTIZERS_INSERTED
from graphpress.passes.convert_fake_quant import ConvertFakeQuant
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import ElementType, GraphBuilder, f32, op_names
from tests.passes.quantization_graphs import random, run


def fake_quantized(b, value, scale, zero_point=None, minval=None, **attributes):
    named = {"scale": scale, "zero_point": zero_point, "minval": minval}
    operands = [b.constant(name, tensor, "buffer") if tensor is not None else None for name, tensor in named.items()]
    return b.quant.fake_quantize(value, *operands, quantizer="q", **({"dtype": DType.INT8} | attributes))


def weight_graph(weight, *parameters, **attributes):
    b = GraphBuilder()
    stored = fake_quantized(b, b.constant("layer.weight", weight), *parameters, **attributes)
    return b.outputs(b.aten.linear(b.input("x", f32[2, weight.shape[1]]), stored, name="linear"))


def test_a_weight_becomes_codes_and_the_op_that_expands_them():
    weight = torch.tensor([[1.0, -0.5, 0.26, 10.0]])
    graph = run(weight_graph(weight, torch.tensor(0.5)), ConvertFakeQuant())
    assert op_names(graph) == ["blockwise_shift_scale", "linear"]
    codes = graph.constants["layer.weight_quantized"]
    assert codes.type.dtype is DType.INT8
    assert codes.tensor.tolist() == [[2, -1, 1, 20]]
    assert "layer.weight" not in graph.constants


def test_ties_round_to_the_even_code():
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5]])
    graph = run(weight_graph(weight, torch.tensor(1.0)), ConvertFakeQuant())
    assert graph.constants["layer.weight_quantized"].tensor.tolist() == [[0, 2, 2, 0]]


def test_a_scale_for_each_channel_divides_its_channel():
    weight = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    graph = run(weight_graph(weight, torch.tensor([[1.0], [0.5]])), ConvertFakeQuant())
    assert graph.constants["layer.weight_quantized"].tensor.tolist() == [[1, 2], [2, 4]]
    assert graph.node("layer_weight_dequantized").operands["scale"].constant.tensor.shape == (2, 1)


def test_a_zero_point_moves_the_codes():
    graph = run(
        weight_graph(torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor(0.5), torch.tensor(3.0), dtype=DType.UINT4),
        ConvertFakeQuant(),
    )
    assert graph.constants["layer.weight_quantized"].tensor.tolist() == [[1, 3, 5]]
    assert graph.constants["layer.weight_quantized"].type.dtype is DType.UINT4


def test_with_a_minimum_value_the_lowest_code_stands_for_it():
    parameters = torch.tensor(0.5), None, torch.tensor(-1.0)
    graph = run(weight_graph(torch.tensor([[-1.0, 0.0, 9.0]]), *parameters), ConvertFakeQuant())
    assert graph.constants["layer.weight_quantized"].tensor.tolist() == [[-128, -126, -108]]


def test_with_a_minimum_value_and_fewer_codes_the_lowest_code_of_the_type_stands_for_it():
    parameters = torch.tensor(0.5), None, torch.tensor(-1.0)
    graph = run(weight_graph(torch.tensor([[-1.0, 999.0]]), *parameters, quant_min=-127), ConvertFakeQuant())
    assert graph.constants["layer.weight_quantized"].tensor.tolist() == [[-128, 126]]
    assert "quant_min" not in graph.node("layer_weight_dequantized").attributes


def test_codes_stay_within_the_bounds_of_the_quantizer():
    graph = run(weight_graph(torch.tensor([[-999.0, 999.0]]), torch.tensor(1.0), quant_min=-127), ConvertFakeQuant())
    assert graph.constants["layer.weight_quantized"].tensor.tolist() == [[-127, 127]]


def test_an_activation_becomes_quantize_and_dequantize():
    b = GraphBuilder()
    graph = b.outputs(fake_quantized(b, b.input(), torch.tensor(0.5), torch.tensor(2.0)))
    made = run(graph, ConvertFakeQuant())
    assert op_names(made) == ["quantize", "dequantize"]
    quantize, dequantize = made.nodes
    assert quantize.result.type.dtype is DType.INT8
    assert [node.operands["zero_point"].constant.name for node in (quantize, dequantize)] == ["zero_point"] * 2
    x = random(2, 4)
    assert torch.equal(interpret(made, [x])[0], interpret(graph, [x])[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_model_is_kept(dtype):
    b = GraphBuilder()
    graph = b.outputs(fake_quantized(b, b.input("x", ElementType(DType.of(dtype))[2, 4]), torch.tensor(0.5)))
    made = run(graph, ConvertFakeQuant())
    assert made.outputs[0].value.type == graph.outputs[0].value.type
    x = random(2, 4).to(dtype)
    assert torch.equal(interpret(made, [x])[0], interpret(graph, [x])[0])


def test_a_quantizer_that_saw_no_data_is_removed_with_a_report():
    b = GraphBuilder()
    graph = b.outputs(b.quant.fake_quantize(b.input(), dtype=DType.INT8, quantizer="q", name="q"))
    result = Runner().run(graph, Pipeline(ConvertFakeQuant(), assume=[QUANTIZERS_INSERTED, CONSTANTS_FOLDED]))
    assert len(result.graph.nodes) == 0
    (report,) = result.record("convert-fake-quant").reports
    assert "no data" in str(report)


def test_floats_are_cast_and_not_rounded_to_integers():
    weight = torch.tensor([[0.3, 500.0]])
    graph = run(weight_graph(weight, torch.tensor(1.0), dtype=DType.FLOAT8_E4M3FN), ConvertFakeQuant())
    codes = graph.constants["layer.weight_quantized"].tensor
    assert codes.dtype == torch.float8_e4m3fn
    assert codes.float().tolist() == [[0.3125, 448.0]]
