import pytest
import torch
from torch import nn

from graphpress.ir import from_module, run
from graphpress.ir.dtypes import DType
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    PerGroupedChannelGranularity,
    QuantizationSpec,
)
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.palettize_weights import PalettizeWeights
from graphpress.passes.weights import PalettizationError

INPUT = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def config(**spec):
    each = PalettizationSpec(**spec)
    return KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": each}))


def palettized(module, *inputs, before=(), **spec):
    graph = from_module(module.eval(), inputs or (INPUT,))
    return Runner().run(graph, Pipeline(Canonicalize(), *before, PalettizeWeights(config(**spec))))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2), nn.Flatten(), nn.Linear(200, 4))


def with_dequantized_weights(graph):
    """The graph with every compressed weight as the plain constant it stands for."""
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if node.op.name in ("quant.lut_to_dense", "quant.blockwise_shift_scale"):
            rewriter.replace(node, rewriter.add_constant(f"{node.name}_value", _value(node)))
    return graph


def _value(node):
    arguments = {name: node.operand(name) for name in node.operands}
    tensors = {name: value.constant.tensor for name, value in arguments.items()}
    return node.op.evaluate(**tensors, **node.attributes)


@pytest.mark.parametrize("table", [None, "int8"])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_graph_computes_exactly_with_the_dequantized_tables(table, scaled):
    module = net()
    spec = {"lut_qspec": None if table is None else QuantizationSpec(dtype=table), "enable_per_channel_scale": scaled}
    graph = palettized(module, **spec).graph
    (compressed,) = run(graph, [INPUT])
    (plain,) = run(with_dequantized_weights(graph), [INPUT])
    assert torch.equal(compressed, plain)
    assert 0 < (compressed - module(INPUT)).abs().max() < 0.5


def test_a_wrong_table_is_noticed_by_the_same_comparison():
    graph = palettized(net()).graph
    (compressed,) = run(graph, [INPUT])
    lut = graph.constants["0.weight_lut"]
    Rewriter(graph).replace_constant(lut, lut.tensor.roll(1, dims=-2))
    (wrong,) = run(with_dequantized_weights(graph), [INPUT])
    assert not torch.equal(compressed, wrong)


def test_weights_become_indices_and_tables_with_their_names():
    result = palettized(net(), lut_qspec=QuantizationSpec(dtype="int8", qscheme="asymmetric"))
    constants = result.graph.constants
    for name in ("0.weight", "2.weight", "4.weight"):
        assert name not in constants
        assert constants[f"{name}_indices"].type.dtype is DType.UINT4
        assert constants[f"{name}_indices"].tensor.dtype == torch.uint8
        assert constants[f"{name}_lut"].type.dtype is DType.INT8
        assert {f"{name}_scale", f"{name}_zero_point"} <= set(constants)
    assert constants["2.weight_indices"].type.shape == (16, 8, 2, 2)
    assert result.records[-1].statistics == {"palettized": 3}


def test_a_weight_of_two_layers_is_stored_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(32, 16)
            self.head = nn.Linear(16, 32, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x))

    graph = palettized(Tied(), torch.tensor([[1, 2]])).graph
    tables = [node for node in graph.nodes if node.op.name == "quant.lut_to_dense"]
    assert len(tables) == 1
    assert [user.op.short_name for user in tables[0].result.users] == ["embedding", "linear"]


def test_a_transposed_parameter_is_palettized_where_it_is_stored():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 6))

        def forward(self, x):
            return x @ self.weight.t()

    graph = palettized(Product()).graph
    assert "weight_indices" in graph.constants
    assert graph.constants["weight_indices"].type.shape == (16, 6)


def test_a_batch_norm_folded_before_is_clustered_along():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    module[1].running_var.uniform_(0.1, 10)
    graph = palettized(module, before=(FoldBatchNorm(), FoldConstants()), lut_qspec=QuantizationSpec()).graph
    assert [node.op.short_name for node in graph.nodes] == ["lut_to_dense", "blockwise_shift_scale", "conv2d"]
    assert "0.weight_lut" in graph.constants
    (output,) = run(graph, [INPUT])
    assert (output - module.eval()(INPUT)).abs().max() < 0.3


def test_norms_and_biases_stay_whole():
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    graph = palettized(module).graph
    assert {"0.bias", "1.weight", "1.bias"} <= set(graph.constants)


def test_weights_that_groups_do_not_divide_are_reported():
    result = palettized(net(), granularity=PerGroupedChannelGranularity(group_size=8))
    assert result.records[-1].statistics == {"palettized": 2}
    assert any("group_size=8" in str(report) and "4.weight" in str(report) for report in result.records[-1].reports)


def test_weights_that_groups_do_not_divide_are_an_error_when_asked():
    spec = {"granularity": PerGroupedChannelGranularity(group_size=8)}
    graph = from_module(net().eval(), (INPUT,))
    with pytest.raises(PalettizationError, match=r"4\.weight.*1, 2, 4"):
        Runner().run(graph, Pipeline(PalettizeWeights(config(**spec), leave_indivisible=False)))


def test_the_pass_is_read_back_from_its_text():
    pipeline = Pipeline(PalettizeWeights(config(n_bits=6), seed=3))
    assert Pipeline.parse(str(pipeline)) == pipeline
