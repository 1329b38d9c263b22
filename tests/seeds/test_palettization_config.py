from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.config import OpKMeansPalettizerConfig
from graphpress.palettization.spec import PerGroupedChannelGranularity, PerTensorGranularity
from graphpress.quantization import QuantizationSpec
from tests.documents import seed

DOCUMENT = seed("palettization_config.md.txt")
IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Pictures(nn.Module):
    """Two listed kinds of layers, and two that the document's last example does not list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, padding=1)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.line = nn.Conv1d(16, 16, 3)
        self.head = nn.Linear(254, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.line(self.up(torch.relu(self.conv(x))).flatten(2)))


def assigned(block: int, namespace: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every value that a block gives a name, in order. The block runs statement by statement."""
    values = []
    for statement in ast.parse(DOCUMENT.blocks()[block].code).body:
        exec(compile(ast.Module([statement], []), DOCUMENT.path.name, "exec"), namespace)
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            values.append((name, namespace[name]))
    return values


@pytest.fixture(scope="module")
def history() -> list[list[tuple[str, Any]]]:
    """What each block assigns, all run in one namespace, as a reader would who has a model and an example of input."""
    torch.manual_seed(0)
    namespace: dict[str, Any] = {
        "torch": torch,
        "np": np,
        "KMeansPalettizer": KMeansPalettizer,
        "KMeansPalettizerConfig": KMeansPalettizerConfig,
        "ModuleKMeansPalettizerConfig": ModuleKMeansPalettizerConfig,
        "OpKMeansPalettizerConfig": OpKMeansPalettizerConfig,
        "model": Pictures().eval(),
        "config": weight_config(PalettizationSpec(n_bits=4, cluster_dim=2)),
        "example_inputs": (IMAGE,),
    }
    return [assigned(block, namespace) for block in range(len(DOCUMENT.blocks()))]


def weight_config(spec: PalettizationSpec) -> KMeansPalettizerConfig:
    return KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec}))


def from_yaml(block: int) -> KMeansPalettizerConfig:
    return KMeansPalettizerConfig.from_yaml(DOCUMENT.blocks("yaml")[block].code)


def palettized(config: KMeansPalettizerConfig, model: nn.Module | None = None) -> tuple[nn.Module, nn.Module]:
    """A model, and what the config makes of it."""
    torch.manual_seed(0)
    model = Pictures().eval() if model is None else model
    return model, KMeansPalettizer(model, config).prepare((IMAGE,))


def assert_values(weight: torch.Tensor, of: torch.Tensor, groups: int, most: int) -> None:
    """`weight` is near `of` with at most so many distinct values in each group of output channels."""
    assert not torch.equal(weight, of)
    assert float((weight - of).detach().square().mean()) < 0.02 * float(of.detach().var())
    assert all(len(part.unique()) <= most for part in weight.chunk(groups))
    assert any(len(part.unique()) > most // 2 for part in weight.chunk(groups))


def test_the_document_holds_the_blocks_that_are_run(history: list[list[tuple[str, Any]]]) -> None:
    assert len(DOCUMENT.blocks()) == len(history) == 7
    assert len(DOCUMENT.blocks("yaml")) == 2


def test_specs_are_what_their_comments_say(history: list[list[tuple[str, Any]]]) -> None:
    default, grouped, quantized, pairs = [value for _, value in history[0]]
    assert default == PalettizationSpec() == PalettizationSpec(n_bits=4, granularity=PerTensorGranularity())
    assert default.n_clusters == 16
    assert (default.cluster_dim, default.lut_qspec, default.enable_per_channel_scale) == (1, None, False)
    assert (grouped.n_bits, grouped.granularity) == (2, PerGroupedChannelGranularity(axis=0, group_size=8))
    assert quantized.lut_qspec == QuantizationSpec(dtype="int8", qscheme="symmetric")
    assert quantized.lut_qspec.target_dtype is torch.int8
    assert (pairs.n_bits, pairs.cluster_dim) == (4, 2)


def test_specs_make_of_a_weight_what_their_comments_say(history: list[list[tuple[str, Any]]]) -> None:
    default, grouped, quantized, pairs = [
        (before.conv.weight, after.conv)
        for before, after in (palettized(weight_config(spec).only_for(nn.Conv2d)) for _, spec in history[0])
    ]
    assert len(default[1].weight.unique()) == 16
    assert grouped[1].weight_lut.shape == (4, 1, 1, 1, 4, 1)
    assert all(len(group.unique()) == 4 for group in grouped[1].weight.split(8))
    assert quantized[1].weight_lut.dtype is torch.int8
    assert len(quantized[1].weight.unique()) <= 16
    couples = pairs[1].weight.unflatten(0, (-1, 2)).movedim(1, -1).reshape(-1, 2)
    assert len(couples.unique(dim=0)) == 16
    four, rounded, two, vectors = (
        float((after.weight - before).detach().square().mean())
        for before, after in (default, quantized, grouped, pairs)
    )
    assert four <= rounded < 1.1 * four
    assert max(two, vectors) < 20 * four


@pytest.mark.parametrize("block", [1, 2])
def test_vector_palettization_gives_the_same_weights_each_time(
    block: int, history: list[list[tuple[str, Any]]]
) -> None:
    # The document has to seed two libraries for this; here a run depends on nothing but the arguments of `prepare`.
    first, second = [model for name, model in history[block] if name in ("model_1", "model_2")]
    assert first is not second
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert first.conv.weight_lut.shape[-2:] == (16, 2)


def test_vector_palettization_gives_the_same_weights_with_any_number_of_workers() -> None:
    config = weight_config(PalettizationSpec(n_bits=4, cluster_dim=2))
    model, first = palettized(config)
    second = KMeansPalettizer(model, config).prepare((IMAGE,), num_workers=3)
    other = KMeansPalettizer(model, config).prepare((IMAGE,), seed=7)
    assert torch.equal(first.conv.weight, second.conv.weight)
    assert not torch.equal(first.conv.weight, other.conv.weight)


def test_every_spelling_of_the_default_config_is_equal(history: list[list[tuple[str, Any]]]) -> None:
    configs = [value for name, value in history[3] if name == "config"]
    assert len(configs) == 3
    assert configs[0] == configs[1] == configs[2]
    ops = [value for name, value in history[3] if name == "op_config"]
    assert len(ops) == 2
    assert ops[0] == ops[1]
    assert set(ops[0].op_state_spec) == {"weight", "in_proj_weight"}


def test_the_default_config_is_four_bits_per_tensor_for_weights_and_leaves_biases(
    history: list[list[tuple[str, Any]]],
) -> None:
    attention = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 16)).eval()
    for config in [value for name, value in history[3] if name == "config"]:
        prepared = KMeansPalettizer(attention, config).prepare((torch.randn(1, 4, 16),))
        layer = prepared[0]
        for weight in (layer.self_attn.in_proj_weight, layer.linear1.weight, prepared[1].weight):
            assert len(weight.unique()) == 16
        assert torch.equal(layer.self_attn.in_proj_bias, attention[0].self_attn.in_proj_bias)
        assert torch.equal(prepared[1].bias, attention[1].bias)


def test_the_preset_with_an_override_is_the_chain_and_the_yaml(history: list[list[tuple[str, Any]]]) -> None:
    ((_, stepwise),) = history[4]
    ((_, chained),) = history[5]
    assert stepwise == chained
    written = from_yaml(0)
    for module in (written.global_config, *written.module_type_configs.values()):
        # As of coreai-opt 0.4.0, presets cover the in-projections of attention, which the document does not mention.
        module.op_state_spec["in_proj_weight"] = module.op_state_spec["weight"]
    assert chained == written
    assert KMeansPalettizerConfig.from_yaml(stepwise.to_yaml()) == stepwise
    assert KMeansPalettizerConfig.from_dict(stepwise.to_dict()) == stepwise


def test_linear_layers_get_eight_bits_and_all_others_four_in_groups(history: list[list[tuple[str, Any]]]) -> None:
    for config in (history[4][0][1], history[5][0][1], from_yaml(0)):
        before, after = palettized(config)
        assert_values(after.head.weight, before.head.weight, groups=1, most=256)
        assert_values(after.conv.weight, before.conv.weight, groups=2, most=16)
        assert_values(after.line.weight, before.line.weight, groups=1, most=16)
        # Output channels of a transposed convolution are its second axis.
        assert_values(after.up.weight.movedim(1, 0), before.up.weight.movedim(1, 0), groups=1, most=16)


def test_the_config_of_two_types_is_the_yaml_and_leaves_other_modules_whole(
    history: list[list[tuple[str, Any]]],
) -> None:
    ((_, explicit),) = history[6]
    assert explicit == from_yaml(1)
    assert explicit.global_config is None
    for config in (explicit, from_yaml(1)):
        before, after = palettized(config)
        assert_values(after.head.weight, before.head.weight, groups=1, most=256)
        assert_values(after.conv.weight, before.conv.weight, groups=1, most=16)
        assert torch.equal(after.up.weight, before.up.weight)
        assert torch.equal(after.line.weight, before.line.weight)
        assert not [name for name in after.state_dict() if name.startswith(("up.weight_", "line.weight_"))]


def test_precedence_is_the_documented_one() -> None:
    def states(n_bits: int) -> dict[str, PalettizationSpec]:
        return {"weight": PalettizationSpec(n_bits=n_bits)}

    def module(n_bits: int, **more: Any) -> ModuleKMeansPalettizerConfig:
        return ModuleKMeansPalettizerConfig(op_state_spec=states(n_bits), **more)

    ops = {"linear": OpKMeansPalettizerConfig(op_state_spec=states(4))}
    names = {"head.linear": OpKMeansPalettizerConfig(op_state_spec=states(6))}
    for expected, config in {
        1: KMeansPalettizerConfig(global_config=module(1)),
        2: KMeansPalettizerConfig(global_config=module(1), module_type_configs={nn.Linear: module(2)}),
        3: KMeansPalettizerConfig(
            global_config=module(1), module_type_configs={nn.Linear: module(2)}, module_name_configs={"head": module(3)}
        ),
        4: KMeansPalettizerConfig(global_config=module(1, op_type_config=ops)),
        6: KMeansPalettizerConfig(global_config=module(1, op_type_config=ops, op_name_config=names)),
        8: KMeansPalettizerConfig(
            global_config=module(1, op_type_config=ops, op_name_config=names, module_state_spec=states(8))
        ),
    }.items():
        assert len(palettized(config)[1].head.weight.unique()) == 2**expected
