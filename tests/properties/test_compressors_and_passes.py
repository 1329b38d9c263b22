"""A compressor of modules and the pass over the captured graph store the same bits, tensor by tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphpress import pipelines
from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.ir import from_module
from graphpress.ir.graph import Graph, Value
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig
from graphpress.passes.analysis.facts import QUANTIZERS_CONVERTED
from graphpress.passes.config import CompressionConfig
from graphpress.passes.framework import Pipeline, Runner
from graphpress.pruning import MagnitudePruner, MagnitudePrunerConfig
from graphpress.quantization import Quantizer, QuantizerConfig


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Linear(8, 40)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(torch.relu(self.grouped(torch.relu(self.first(x))))).mean((2, 3)))


class Tokens(nn.Module):
    """An embedding whose table is the head's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(48, 32)
        self.mixed = nn.Linear(32, 32)
        self.head = nn.Linear(32, 48, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mixed(self.table(tokens))))


class Signals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 8, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.first(x)))


MODELS = {
    "convolutions": (Convolutions, torch.randn(2, 4, 8, 8)),
    "tokens": (Tokens, torch.tensor([[1, 2, 3]])),
    "signals": (Signals, torch.randn(2, 8, 16)),
}


def model_and_input(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    kind, example = MODELS[name]
    torch.manual_seed(0)
    return kind().eval().to(dtype), example.to(dtype) if example.is_floating_point() else example


Stored = dict[str, dict[str, Tensor]]


def stored_by_module(model: nn.Module) -> Stored:
    """What lies beside each weight of a finalized model, by module and role; its floats where nothing does."""
    found: Stored = {}
    for path, module in model.named_modules():
        held = {**module._parameters, **module._buffers}
        parts = {name.removeprefix("weight_"): t for name, t in held.items() if name.startswith("weight_")}
        if parts or held.get("weight") is not None:
            found[path] = parts or {"": held["weight"]}
    return found


def stored_by_pass(graph: Graph) -> Stored:
    """The same of a lowered graph: the constants behind the weight of each layer, by the operand that reads them."""
    found: Stored = {}
    for node in graph.nodes:
        weight = node.operand("weight")
        if weight is not None:
            found[node.location.origins[0].module_path] = dict(_parts(weight))
    return found


def _parts(value: Value, role: str = "") -> list[tuple[str, Tensor]]:
    if value.node is None:
        assert value.constant is not None
        return [("codes" if role == "input" else role, value.constant.tensor)]
    return [part for name, _, read in value.node.operand_values() for part in _parts(read, name)]


def by_module(model: nn.Module, example: Tensor, *steps: tuple[type, Any]) -> Stored:
    for kind, config in steps:
        compressor = kind(model, config)
        compressor.prepare((example,))
        model = compressor.finalize()
    return stored_by_module(model)


def by_pass(model: nn.Module, example: Tensor, *pipelines: Pipeline) -> Stored:
    graph = from_module(model, (example,))
    for pipeline in (*pipelines, Pipeline(LowerToCoreai(), assume=[QUANTIZERS_CONVERTED])):
        graph = Runner().run(graph, pipeline, in_place=True).graph
    return stored_by_pass(graph)


def assert_same(mine: Stored, theirs: Stored, model: nn.Module) -> None:
    """Every part of every weight has the same bits, and each weight of two axes or more is another than before."""
    assert mine.keys() == theirs.keys()
    for path, parts in mine.items():
        before = model.get_submodule(path)._parameters["weight"]
        assert before is not None
        assert parts.keys() != {""} or not torch.equal(parts[""], before), f"{path} was not compressed"
        assert parts.keys() == theirs[path].keys(), path
        for role, tensor in parts.items():
            other = theirs[path][role]
            assert same_bits(tensor, other), (path, role, tensor.dtype, other.dtype)


def assert_module_and_pass_agree(kind: type, config: Any, pipeline: Pipeline, name: str, dtype: torch.dtype) -> None:
    model, example = model_and_input(name, dtype)
    assert_same(by_module(model, example, (kind, config)), by_pass(model, example, pipeline), model)


def same_bits(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    raw = [each.detach().contiguous().view(torch.uint8) for each in (left, right)]
    return torch.equal(*raw)


def config_of(kind: type[CompressionConfig], spec: dict[str, Any], **module: Any) -> Any:
    top = {QuantizerConfig: "quantization", KMeansPalettizerConfig: "kmeans_palettization"}.get(kind, "pruning")
    return kind.from_dict({f"{top}_config": {"global_config": {"op_state_spec": {"weight": spec}, **module}}})


CHANNEL = {"type": "per_channel"}
BLOCK = {"type": "per_block", "block_size": 4}
QUANTIZED = {
    f"{dtype}, {scheme}, {granularity['type'] if granularity else 'per_tensor'}": {
        "dtype": dtype,
        "qscheme": scheme,
        **({"granularity": granularity} if granularity else {}),
    }
    for dtype in ("int8", "int4")
    for scheme in ("symmetric", "asymmetric", "symmetric_with_clipping")
    for granularity in (None, CHANNEL, BLOCK)
}
QUANTIZED |= {
    "uint8, minval": {"dtype": "uint8", "qscheme": "asymmetric", "qformulation": "minval", "granularity": CHANNEL},
    "int8, minval, clipped": {"dtype": "int8", "qscheme": "symmetric_with_clipping", "qformulation": "minval"},
    "float8": {"dtype": "float8_e4m3fn"},
    "float16 scales": {"dtype": "int4", "granularity": BLOCK, "scale_dtype": "float16"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spec", QUANTIZED.values(), ids=QUANTIZED)
def test_the_eager_quantizer_and_quantize_weights_store_the_same(spec, name, dtype):
    off = {"op_input_spec": None, "op_output_spec": None}
    config = config_of(QuantizerConfig, spec, **off)
    eager = QuantizerConfig.from_dict(config.to_dict()).set_execution_mode("eager")
    assert_module_and_pass_agree(Quantizer, eager, pipelines.quantize_weights(config), name, dtype)


GROUPS = {"type": "per_grouped_channel", "axis": 0, "group_size": 4}
INPUTS = {"type": "per_grouped_channel", "axis": 1, "group_size": 4}
INT8 = {"dtype": "int8", "qscheme": "symmetric"}
PALETTIZED = {f"{bits} bits": {"n_bits": bits} for bits in (1, 2, 3, 4, 6, 8)}
PALETTIZED |= {
    "groups of outputs": {"n_bits": 2, "granularity": GROUPS},
    "groups of inputs": {"n_bits": 2, "granularity": INPUTS},
    "vectors": {"n_bits": 4, "cluster_dim": 2},
    "vectors in groups": {"n_bits": 2, "cluster_dim": 2, "granularity": GROUPS},
    "int8 tables": {"n_bits": 4, "lut_qspec": INT8},
    "asymmetric tables": {"n_bits": 3, "lut_qspec": {"dtype": "uint8", "qscheme": "asymmetric"}},
    "float8 tables": {"n_bits": 4, "lut_qspec": {"dtype": "float8_e4m3fn"}},
    "scaled channels": {"n_bits": 4, "enable_per_channel_scale": True},
    "scaled int8 tables": {"n_bits": 4, "enable_per_channel_scale": True, "lut_qspec": INT8},
    "scaled int8 tables in groups": {
        "n_bits": 2,
        "enable_per_channel_scale": True,
        "lut_qspec": INT8,
        "granularity": GROUPS,
    },
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spec", PALETTIZED.values(), ids=PALETTIZED)
def test_the_palettizer_and_palettize_weights_store_the_same(spec, name, dtype):
    config = config_of(KMeansPalettizerConfig, spec)
    assert_module_and_pass_agree(KMeansPalettizer, config, pipelines.palettize(config), name, dtype)


PRUNED = {
    "half": {},
    "little": {"target_sparsity": 0.02},
    "most": {"target_sparsity": 0.9},
    "channels": {"pruning_scheme": {"type": "channel_structured", "axis": 0}},
    "input channels": {"pruning_scheme": {"type": "channel_structured", "axis": 1}},
    "blocks": {"pruning_scheme": {"type": "block_structured", "axis": 0, "block_size": 2}},
    "two of four": {"pruning_scheme": {"type": "n_m_structured", "axis": 0, "m": 4}},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spec", PRUNED.values(), ids=PRUNED)
def test_the_pruner_and_prune_weights_store_the_same(spec, name, dtype):
    config = config_of(MagnitudePrunerConfig, spec)
    assert_module_and_pass_agree(MagnitudePruner, config, pipelines.prune(config), name, dtype)


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("name", MODELS)
def test_kept_elements_are_palettized_the_same(name, bits):
    model, example = model_and_input(name)
    pruning = config_of(MagnitudePrunerConfig, {"target_sparsity": 0.75})
    config = config_of(KMeansPalettizerConfig, {"n_bits": bits})
    mine = by_module(model, example, (MagnitudePruner, pruning), (KMeansPalettizer, config))
    assert any("mask" in parts for parts in mine.values())
    assert_same(mine, by_pass(model, example, pipelines.prune(pruning), pipelines.palettize(config)), model)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("name", MODELS)
def test_kept_elements_are_quantized_the_same(name, scheme, dtype):
    model, example = model_and_input(name)
    pruning = config_of(MagnitudePrunerConfig, {"target_sparsity": 0.75})
    off = {"op_input_spec": None, "op_output_spec": None}
    config = config_of(QuantizerConfig, {"dtype": dtype, "qscheme": scheme, "granularity": CHANNEL}, **off)
    eager = QuantizerConfig.from_dict(config.to_dict()).set_execution_mode("eager")
    mine = by_module(model, example, (MagnitudePruner, pruning), (Quantizer, eager))
    assert any("mask" in parts for parts in mine.values()) == (scheme == "symmetric")  # whose code of zero is 0
    assert_same(mine, by_pass(model, example, pipelines.prune(pruning), pipelines.quantize_weights(config)), model)


def test_another_bit_is_found():
    model, example = model_and_input("signals")
    config = config_of(KMeansPalettizerConfig, {"n_bits": 4})
    mine = by_module(model, example, (KMeansPalettizer, config))
    theirs = by_pass(model, example, pipelines.palettize(config))
    mine["up"]["indices"].view(-1)[0] ^= 1
    with pytest.raises(AssertionError, match="indices"):
        assert_same(mine, theirs, model)
