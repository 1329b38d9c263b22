"""Quantizing weights as a pass over graphs, against plain formulas and the quantizer of prepared models."""

import pytest
import torch
from torch import nn

from graphpress import ExportBackend, pipelines
from graphpress.ir import from_module, run
from graphpress.ir.dtypes import DType
from graphpress.passes.analysis.facts import QUANTIZERS_CONVERTED
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.palettize_weights import PalettizeWeights
from graphpress.passes.prune_weights import PruneWeights
from graphpress.passes.quantize_weights import QuantizeWeights
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity, PerTensorGranularity

INPUT = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def net(dtype=torch.float32):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2), nn.Flatten(), nn.Linear(200, 4)
    return nn.Sequential(*layers).eval().to(dtype)


def config(**spec):
    state = {"weight": QuantizationSpec(**{"granularity": PerChannelGranularity()} | spec)}
    return QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec=state))


def quantized(module, *before, inputs=INPUT, options=None, **spec):
    graph = from_module(module, (inputs,))
    return Runner().run(graph, Pipeline(Canonicalize(), *before, QuantizeWeights(config(**spec), **options or {})))


def dense(graph, name):
    """The weight that a node dequantizes."""
    node = next(node for node in graph.nodes if node.name == name)
    operands = {key: value.constant.tensor for key, value in node.operands.items() if value is not None}
    return node.op.evaluate(**operands, **node.attributes)


@pytest.mark.parametrize("axis_of_output", [("0_weight", 0), ("2_weight", 1), ("4_weight", 0)])
@pytest.mark.parametrize(("dtype", "steps"), [("int8", 127.5), ("int4", 7.5), ("int2", 1.5)])
def test_codes_are_those_of_the_textbook_formula(axis_of_output, dtype, steps):
    name, axis = axis_of_output
    module = net()
    graph = quantized(module, dtype=dtype).graph
    weight = module.get_parameter(name.replace("_", ".")).detach()
    others = [other for other in range(weight.ndim) if other != axis]
    scale = weight.abs().amax(others, keepdim=True) / steps
    lowest, highest = -round(steps + 0.5), round(steps - 0.5)
    expected = (weight / scale).round().clamp(lowest, highest) * scale
    # Scales are rounded up to 16 bits, which may turn single codes: the largest of a channel lies at a tie.
    assert ((dense(graph, f"{name}_dequantized") - expected).abs() <= scale * 1.01).all()
    assert ((dense(graph, f"{name}_dequantized") - expected).abs() > scale * 0.01).float().mean() < 0.03


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"dtype": "uint8", "qscheme": "asymmetric"},
        {"dtype": "int4", "granularity": PerBlockGranularity(block_size=8)},
        {"dtype": "float8_e4m3fn", "granularity": PerTensorGranularity()},
    ],
    ids=["int8", "asymmetric", "blocks", "float8"],
)
def test_what_is_stored_is_what_the_quantizer_of_the_model_stores(spec):
    module = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    state = {"weight": QuantizationSpec(**{"granularity": PerChannelGranularity()} | spec)}
    off = {"op_input_spec": None, "op_output_spec": None}
    quantizer = Quantizer(module, QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec=state, **off)))
    inputs = torch.randn(4, 64)
    quantizer.prepare((inputs,))
    finalized = from_module(quantizer.finalize(backend=ExportBackend.CoreAI), (inputs,))
    lowering = Pipeline(*pipelines.lowering("coreai"), assume=[QUANTIZERS_CONVERTED])
    graph = Runner().run(quantized(module, inputs=inputs, **spec).graph, lowering).graph
    stored = [_sorted(each) for each in (graph, finalized)]
    assert stored[0] == stored[1]


def _sorted(graph):
    tensors = [constant.tensor.detach().contiguous() for constant in graph.constants.values()]
    return sorted(bytes(tensor.reshape(-1).view(torch.uint8).numpy()) for tensor in tensors)


def test_a_weight_of_float16_has_scales_of_float16():
    graph = quantized(net(torch.float16), inputs=INPUT.half()).graph
    node = next(node for node in graph.nodes if node.name == "4_weight_dequantized")
    assert node.operands["scale"].tensor_type.dtype is node.result.tensor_type.dtype is DType.FLOAT16
    weight = net(torch.float16)[4].weight.detach()
    assert ((dense(graph, node.name) - weight).abs() <= 0.51 * node.operands["scale"].constant.tensor).all()


def test_scales_that_float16_does_not_hold_stay_in_float32():
    module = nn.Sequential(nn.Linear(8, 4, bias=False)).half()
    module[0].weight.data.mul_(1e-4)
    graph = quantized(module, inputs=torch.randn(2, 8).half()).graph
    assert graph.constants["0.weight_scale"].type.dtype is DType.FLOAT32
    assert dense(graph, "0_weight_dequantized").dtype is torch.float16


def test_of_a_pruned_weight_the_kept_elements_are_stored():
    graph = quantized(net(), PruneWeights()).graph
    kept = graph.constants["4.weight_codes"]
    assert kept.type.dtype is DType.INT8
    assert kept.tensor.numel() == 400
    assert "4.weight_nonzero_data" not in graph.constants
    (output,) = run(graph, [INPUT])
    (pruned,) = run(Runner().run(from_module(net(), (INPUT,)), Pipeline(Canonicalize(), PruneWeights())).graph, [INPUT])
    assert 0 < (output - pruned).abs().max() < 0.05


def test_of_a_pruned_weight_the_kept_elements_have_indices():
    pipeline = Pipeline(Canonicalize(), PruneWeights(), PalettizeWeights())
    graph = Runner().run(from_module(net(), (INPUT,)), pipeline).graph
    assert graph.constants["4.weight_indices"].tensor.shape == (400,)
    assert graph.constants["4.weight_lut"].tensor.shape == (1, 16, 1)
    assert [node.op.short_name for node in graph.nodes][:2] == ["lut_to_dense", "sparse_to_dense"]
    assert torch.isfinite(run(graph, [INPUT])[0]).all()


def test_weights_that_blocks_do_not_divide_and_small_ones_stay():
    spec = {"granularity": PerBlockGranularity(block_size=16)}
    result = quantized(net(), **spec)
    assert result.records[-1].statistics == {"quantized": 1}
    assert any("block_size=16" in str(report) for report in result.records[-1].reports)
    with pytest.raises(QuantizationError, match=r"2 weights cannot be divided.*\n.*0\.weight"):
        quantized(net(), options={"leave_indivisible": False}, **spec)
    assert quantized(net(), options={"weight_num_threshold": 512}).records[-1].statistics == {"quantized": 1}


def test_quantizing_again_changes_nothing():
    once = quantized(net()).graph
    assert Runner().run(once, Pipeline(QuantizeWeights(config()))).graph == once


def test_what_wants_a_model_is_refused_and_bad_weights_are_named():
    with pytest.raises(QuantizationError, match=r"qparam_calculator_cls is 'mse'.*accepted.*'static'"):
        quantized(net(), qparam_calculator_cls="mse")
    broken = net()
    broken[4].weight.data[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match=r"4\.weight: 1 of 800 elements"):
        quantized(broken)


def test_the_standard_pipeline_and_its_text():
    pipeline = pipelines.quantize_weights(config(dtype="int4"))
    assert Pipeline.parse(str(pipeline)) == pipeline
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    graph = Runner().run(from_module(module, (INPUT,)), pipeline).graph
    assert [node.op.short_name for node in graph.nodes] == ["blockwise_shift_scale", "conv2d"]
