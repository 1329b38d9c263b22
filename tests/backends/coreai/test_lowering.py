from __future__ import annotations

import pytest
import torch

from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.coreai.raising import RaiseFromCoreai
from graphpress.backends.errors import LoweringError
from graphpress.ir.dtypes import DType
from graphpress.ir.interpreter import run as interpret
from graphpress.ir.types import TensorType
from graphpress.passes.framework.testing import ElementType, GraphBuilder, op_names
from tests.passes.quantization_graphs import random, run


def codes(b, name, tensor, dtype):
    return b.graph.add_constant(
        name, tensor.to(dtype.torch_dtype), "buffer", type=TensorType(dtype, tensor.shape)
    ).value


def buffer(b, name, tensor):
    return None if tensor is None else b.constant(name, tensor, "buffer")


PER_CHANNEL, PER_TENSOR = torch.full((4, 1), 0.5), torch.tensor(0.5)


def weight_graph(dtype=DType.INT8, scale=PER_CHANNEL, zero_point=None, minval=None, **attributes):
    b = GraphBuilder()
    parameters = [buffer(b, "scale", scale), buffer(b, "zero_point", zero_point), buffer(b, "minval", minval)]
    data = codes(b, "weight_quantized", torch.arange(16).reshape(4, 4) % 3, dtype)
    weight = b.quant.blockwise_shift_scale(data, *parameters, dtype=dtype, name="dequantized", **attributes)
    type = weight.tensor_type.dtype
    return b.outputs(b.aten.linear(b.input("x", ElementType(type)[2, 4]), weight, name="linear"))


def table_graph(bits=4, lut=None, axis=0):
    b = GraphBuilder()
    lut = torch.arange(2.0**bits).reshape(1, 1, -1, 1) if lut is None else lut
    dtype = {1: DType.UINT1, 2: DType.UINT2, 3: DType.UINT3, 4: DType.UINT4, 5: DType.UINT8}.get(bits, DType.UINT8)
    indices = codes(b, "layer.weight_codes", torch.arange(16).reshape(4, 4) % 2**bits, dtype)
    weight = b.quant.lut_to_dense(indices, b.constant("layer.weight_table", lut, "literal"), axis=axis)
    return b.outputs(b.aten.linear(b.input(), weight))


def activation_graph(dtype=DType.INT8, scale=PER_TENSOR, zero_point=None, minval=None, **attributes):
    b = GraphBuilder()
    parameters = [buffer(b, "scale", scale), buffer(b, "zero_point", zero_point), buffer(b, "minval", minval)]
    made = b.quant.quantize(b.input(), *parameters, dtype=dtype, name="q", **attributes)
    return b.outputs(b.quant.dequantize(made, *parameters, dtype=dtype, name="dq"))


def lowered(graph):
    return run(graph, LowerToCoreai())


def test_a_stored_weight_keeps_its_place_and_says_the_type_of_its_codes():
    graph = lowered(weight_graph(DType.INT4))
    assert op_names(graph) == ["constexpr_blockwise_shift_scale", "linear"]
    assert graph.node("dequantized_1").attributes["input_dtype"] is DType.INT4
    assert graph.constants["weight_quantized"].type.dtype is DType.INT4


def test_a_scale_for_the_whole_weight_gets_the_rank_of_the_weight():
    graph = lowered(weight_graph(scale=torch.tensor(0.5), zero_point=torch.tensor(1.0)))
    operands = graph.node("dequantized_1").operands
    assert operands["scale"].constant.tensor.shape == operands["zero_point"].constant.tensor.shape == (1, 1)
    assert operands["zero_point"].constant.tensor.dtype == torch.int8


def test_indices_and_tables_get_names_and_kinds_the_converter_looks_for():
    graph = lowered(table_graph())
    constants = {name: constant.kind for name, constant in graph.constants.items()}
    assert constants == {"layer.weight_indices": "buffer", "layer.weight_lut": "buffer"}
    assert graph.constants["layer.weight_indices"].type.dtype is DType.UINT4


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_tables_of_these_bits_are_stored(bits):
    assert "lut_to_dense" in op_names(lowered(table_graph(bits)))


def test_a_table_of_five_bits_is_refused_with_the_sizes_that_work():
    with pytest.raises(LoweringError, match=r"tables of 2, 4, 8, 16, 64, 256 entries, not 32"):
        lowered(table_graph(5))


def test_a_negative_axis_counts_from_the_end():
    vector = torch.arange(32.0).reshape(1, 1, 16, 2)
    b = GraphBuilder()
    indices = codes(b, "w_codes", torch.arange(8).reshape(4, 2), DType.UINT4)
    weight = b.quant.lut_to_dense(indices, b.constant("w_table", vector, "buffer"), -1)
    graph = lowered(b.outputs(b.aten.linear(b.input(), weight)))
    assert next(iter(graph.nodes)).attributes["axis"] == 1


def test_an_activation_is_quantized_with_flat_parameters():
    graph = lowered(activation_graph(DType.UINT8, zero_point=torch.tensor(7.0)))
    assert op_names(graph) == ["quantize", "dequantize"]
    quantize, dequantize = graph.nodes
    assert quantize.operands["scale"].constant.tensor.shape == ()
    assert quantize.operands["zero_point"].constant.tensor.tolist() == 7
    assert quantize.operands["zero_point"] is dequantize.operands["zero_point"]
    assert quantize.attributes["output_dtype"] is dequantize.attributes["input_dtype"] is DType.UINT8


def test_a_scale_for_each_channel_names_its_axis():
    graph = lowered(activation_graph(scale=torch.tensor([[0.1, 0.2, 0.3, 0.4]])))
    assert [node.attribute("axis") for node in graph.nodes] == [1, 1]


def test_blocks_on_activations_are_refused():
    with pytest.raises(LoweringError, match="per tensor or per channel, not in blocks"):
        lowered(activation_graph(scale=torch.full((1, 2), 0.5)))
    with pytest.raises(LoweringError, match="per tensor or per channel, not in blocks"):
        lowered(activation_graph(scale=torch.full((2, 4), 0.5)))


@pytest.mark.parametrize("dtype", [DType.INT2, DType.UINT2, DType.INT6])
def test_activations_of_types_the_runtime_lacks_are_refused_with_those_it_has(dtype):
    with pytest.raises(LoweringError, match=f"no activations of {dtype.long_name}; accepted: .*int4"):
        lowered(activation_graph(dtype))


@pytest.mark.parametrize("dtype", [DType.INT3, DType.UINT6])
def test_weights_of_types_the_runtime_lacks_are_refused_with_those_it_has(dtype):
    with pytest.raises(LoweringError, match=f"no weights of {dtype.long_name}; accepted: .*int2"):
        lowered(weight_graph(dtype))


def test_a_parameter_that_is_computed_is_refused():
    b = GraphBuilder()
    x = b.input()
    scale = b.aten.amax(x)
    graph = b.outputs(b.quant.quantize(x, scale, dtype=DType.INT8))
    with pytest.raises(LoweringError, match="amax is computed, but Core AI needs a constant"):
        lowered(graph)


def test_fewer_codes_than_the_type_has_become_a_clamp():
    graph = activation_graph(quant_min=-127)
    made = lowered(graph)
    assert op_names(made) == ["clamp", "quantize", "dequantize"]
    assert made.node("clamp").attributes == {"min": -63.5}
    x = 100 * random(2, 4)
    assert torch.equal(interpret(made, [x])[0], interpret(graph, [x])[0])


def test_fewer_codes_beside_a_minimum_value_are_refused():
    with pytest.raises(LoweringError, match="quant_min=-127 beside a minimum value"):
        lowered(activation_graph(minval=torch.tensor(-1.0), quant_min=-127))


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16, DType.FLOAT64])
def test_a_weight_of_another_dtype_than_its_scale_is_cast(dtype):
    graph = weight_graph(output_dtype=dtype)
    made = lowered(graph)
    assert op_names(made) == ["constexpr_blockwise_shift_scale", "to", "linear"]
    x = random(2, 4).to(dtype.torch_dtype)
    assert torch.equal(interpret(made, [x])[0], interpret(graph, [x])[0])


def test_what_nothing_reads_any_more_is_dropped():
    assert set(lowered(weight_graph(scale=torch.tensor(0.5))).constants) == {
        "weight_quantized",
        "scale_scale_1x1_float32",
    }


def test_raising_what_was_lowered_gives_the_same_ops_with_the_same_types():
    graph = weight_graph(DType.INT4, zero_point=torch.full((4, 1), 1.0))
    raised = run(lowered(graph), RaiseFromCoreai())
    assert op_names(raised) == op_names(graph)
    node = next(iter(raised.nodes))
    assert node.attributes["dtype"] is DType.INT4
    x = random(2, 4)
    assert torch.equal(interpret(raised, [x])[0], interpret(graph, [x])[0])


def test_raised_tables_are_lowered_again_with_the_width_their_size_says():
    once = lowered(table_graph())
    again = lowered(run(once, RaiseFromCoreai()))
    assert op_names(again) == op_names(once)
    assert {constant.type for constant in again.constants.values()} == {
        constant.type for constant in once.constants.values()
    }
