"""Pruning as a pass over graphs."""

import torch
import torch.nn.functional as F
from torch import nn

from graphpress import pipelines
from graphpress.ir import from_module, parse_graph, print_graph, run
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.hooks import Numerics
from graphpress.passes.prune_weights import PruneWeights
from graphpress.pruning import (
    ChannelStructured,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    PruningSpec,
)

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """Two linear layers that share a weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


def config(**spec):
    return MagnitudePrunerConfig(
        global_config=ModuleMagnitudePrunerConfig(op_state_spec={"weight": PruningSpec(**spec)})
    )


def pruned(model, **spec):
    return Runner().run(from_module(model, (X,)), Pipeline(PruneWeights(config(**spec)))).graph


def test_a_weight_becomes_its_largest_elements_and_their_mask():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    graph = pruned(model, target_sparsity=0.75)
    values, mask = graph.constants["0.weight_nonzero_data"].tensor, graph.constants["0.weight_mask"].tensor
    weight = model[0].weight.detach()
    kept = weight.abs() >= weight.abs().flatten().sort().values[24]
    assert torch.equal(mask, kept)
    assert torch.equal(values, weight[kept])
    assert torch.equal(run(graph, (X,))[0], F.linear(X, weight * kept, model[0].bias))
    assert "0.weight" not in graph.constants


def test_a_weight_of_two_layers_is_pruned_and_stored_once():
    torch.manual_seed(0)
    graph = pruned(Twice().eval())
    assert sum(node.op.name == "quant.sparse_to_dense" for node in graph.nodes) == 1


def test_pruning_again_changes_nothing():
    torch.manual_seed(0)
    once = pruned(nn.Sequential(nn.Linear(8, 4)))
    again = Runner().run(once, Pipeline(PruneWeights(config())))
    assert again.graph == once
    assert not again.records[0].rewrites


def test_where_a_mask_takes_more_than_it_saves_zeros_are_stored():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    graph = pruned(model, target_sparsity=2 / 64)
    assert all(node.op.name != "quant.sparse_to_dense" for node in graph.nodes)
    assert int((graph.constants["0.weight"].tensor == 0).sum()) == 2
    assert int((model[0].weight == 0).sum()) == 0


def test_norms_are_folded_before_magnitudes_are_compared():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.weight.data = torch.tensor([100.0, 1.0, 1.0, 0.001])
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), norm).eval()
    image = torch.randn(1, 2, 5, 5)
    result = Runner(hooks=[Numerics((image,))]).run(
        from_module(model, (image,)), pipelines.prune(config(pruning_scheme=ChannelStructured()))
    )
    mask = next(c.tensor for name, c in result.graph.constants.items() if name.endswith("_mask"))
    assert mask[:, 0, 0, 0].tolist()[0] is True
    assert mask[:, 0, 0, 0].tolist()[3] is False


def test_the_pass_is_named_in_text_and_its_graph_is_printed_and_read_back():
    torch.manual_seed(0)
    assert Pipeline.parse("prune-weights") == Pipeline(PruneWeights())
    graph = pruned(nn.Sequential(nn.Linear(8, 4)))
    tensors = {name: constant.tensor for name, constant in graph.constants.items()}
    assert parse_graph(print_graph(graph), tensors) == graph
