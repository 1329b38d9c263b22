"""Palettization as passes: the same spec gives the same tables, and norms are folded before weights are clustered."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress import pipelines
from graphpress.ir import from_module, run
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.palettize_weights import PalettizeWeights
from graphpress.quantization import QuantizationSpec

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
SPECS = {
    "default": {},
    "1 bit": {"n_bits": 1},
    "3 bits, groups": {"n_bits": 3, "granularity": PerGroupedChannelGranularity(group_size=4)},
    "4 bits, groups of inputs": {"n_bits": 4, "granularity": PerGroupedChannelGranularity(axis=1, group_size=4)},
    "pairs": {"cluster_dim": 2},
    "int8": {"lut_qspec": QuantizationSpec()},
    "uint8, scaled": {
        "lut_qspec": QuantizationSpec(dtype="uint8", qscheme="asymmetric"),
        "enable_per_channel_scale": True,
    },
    "float8 pairs, scaled": {
        "lut_qspec": QuantizationSpec(dtype="float8_e4m3fn"),
        "enable_per_channel_scale": True,
        "cluster_dim": 2,
    },
}


def config(**spec):
    states = {"weight": PalettizationSpec(**spec)}
    return KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec=states))


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2), nn.Flatten(), nn.Linear(200, 8))


@pytest.mark.parametrize("kind", SPECS)
def test_the_pass_finds_the_tables_that_the_palettizer_finds(kind):
    wanted = config(**SPECS[kind])
    prepared = KMeansPalettizer(layers().eval(), wanted).prepare((IMAGE,), seed=3)
    graph = Runner().run(from_module(layers().eval(), (IMAGE,)), Pipeline(PalettizeWeights(wanted, seed=3))).graph
    stored = {name: tensor for name, tensor in prepared.state_dict().items() if "weight_" in name}
    assert len(stored) >= 6
    for name, tensor in stored.items():
        held = graph.constants[name].tensor
        assert held.dtype == tensor.dtype
        assert torch.equal(held.view(torch.uint8), tensor.view(torch.uint8)), name
    with torch.no_grad():
        torch.testing.assert_close(run(graph, [IMAGE])[0], prepared(IMAGE), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pipeline", [pipelines.palettize, lambda wanted: pipelines.joint(wanted, None)])
def test_norms_are_folded_before_clustering(pipeline):
    """So the tables are those of the folded weight, and no arithmetic of a norm is left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()).eval()
    norm = model[1]
    norm.running_var.uniform_(0.1, 10)
    graph = Runner().run(from_module(model, (IMAGE,)), pipeline(config(n_bits=3))).graph
    assert not [node for node in graph.nodes if "batch_norm" in node.op.name or node.op.short_name in ("mul", "div")]
    folded = nn.Conv2d(4, 16, 3)
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded.weight = nn.Parameter((model[0].weight * gain[:, None, None, None]).detach())
    expected = KMeansPalettizer(folded, config(n_bits=3)).prepare()
    (lut,) = (constant for name, constant in graph.constants.items() if name.endswith("_lut"))
    torch.testing.assert_close(lut.tensor, expected.weight_lut, rtol=1e-5, atol=1e-7)


def test_an_option_that_needs_data_is_reported():
    graph = from_module(layers().eval(), (IMAGE,))
    result = Runner().run(graph, Pipeline(PalettizeWeights(config(activation_aware=True))))
    assert any("0.weight: activation_aware is ignored" in str(report) for report in result.records[-1].reports)
    plain = Runner().run(graph, Pipeline(PalettizeWeights(config()))).graph
    assert torch.equal(result.graph.constants["0.weight_lut"].tensor, plain.constants["0.weight_lut"].tensor)
