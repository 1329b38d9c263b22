"""Methods of configs that clients of coreai-opt 0.4.0 call."""

import copy
import io

import pytest
import torch
from torch import nn

from graphpress.palettization import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.passes.config import SpecError
from graphpress.pruning import ModuleMagnitudePrunerConfig
from graphpress.quantization import ExecutionMode, ModuleQuantizerConfig, QuantizerConfig
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity, QuantizationSpec

TEXT = "quantization_config: {global_config: {op_input_spec: null}}"


def weight(config):
    return config.global_config.op_state_spec["weight"]


def test_presets_take_the_axis_the_sizes_and_the_mode():
    presets = QuantizerConfig.presets
    assert weight(presets.w8(axis=1)).granularity == PerChannelGranularity(axis=1)
    assert weight(presets.w4(axis=1)).granularity == PerChannelGranularity(axis=1)
    blocks = presets.w4_per_block(block_size=16, axis=0, execution_mode="eager")
    assert weight(blocks).granularity == PerBlockGranularity(axis=0, block_size=16)
    assert blocks.execution_mode is ExecutionMode.EAGER
    with pytest.raises(SpecError, match=r"execution_mode: 'eager' .*QuantizerConfig\.presets"):
        ModuleQuantizerConfig.presets.w8(execution_mode="eager")


@pytest.mark.parametrize("name", ["w4", "w6"])
def test_palettization_presets_cover_what_the_default_covers(name):
    module = getattr(ModuleKMeansPalettizerConfig.presets, name)(group_size=8, axis=1)
    assert list(module.op_state_spec) == list(ModuleKMeansPalettizerConfig().op_state_spec)
    groups = {(spec.granularity.axis, spec.granularity.group_size) for spec in module.op_state_spec.values()}
    assert groups == {(1, 8)}
    assert list(KMeansPalettizerConfig.presets.w8().global_config.op_state_spec) == ["weight", "in_proj_weight"]


def test_targets_come_in_lists_too():
    single, listed = QuantizerConfig().only_for(nn.Linear, "head"), QuantizerConfig().only_for([nn.Linear, "head"])
    assert single == listed
    assert QuantizerConfig().without([nn.Linear], "head") == QuantizerConfig().without(nn.Linear, "head")
    assert QuantizerConfig().without([]) == QuantizerConfig()


@pytest.mark.parametrize("targets", [("head", 3), (["head", 3],), ("head", object), ([],)])
def test_wrong_targets_change_nothing(targets):
    config = QuantizerConfig()
    with pytest.raises(SpecError):
        config.only_for(*targets)
    assert config == QuantizerConfig()
    if targets != ([],):
        with pytest.raises(SpecError, match=r"targets must be .* or name strings"):
            config.without(*targets)
    assert config == QuantizerConfig()


def test_the_config_of_a_module_is_that_of_its_name_then_of_its_type():
    by_type, first, last = (ModuleQuantizerConfig.presets.w4(axis=axis) for axis in range(3))
    config = QuantizerConfig(
        module_type_configs={nn.Linear: by_type, "torch.nn.Conv2d": None},
        module_name_configs={r"head\..*": first, "head.1": last},
    )
    linear = nn.Linear(2, 2)
    assert config.get_module_config("head.0", linear) is first
    assert config.get_module_config("head.1", linear) is last
    assert config.get_module_config("body", linear) is by_type
    assert config.get_module_config("body", nn.Conv2d(1, 1, 1)) is None
    assert config.get_module_config("body", None) is config.global_config


def test_a_config_is_copied_with_changes_and_validated_again():
    config = QuantizerConfig.presets.w8()
    changed = config.model_copy(update={"execution_mode": "eager"})
    assert changed.execution_mode is ExecutionMode.EAGER
    assert config.execution_mode is ExecutionMode.GRAPH
    assert changed.global_config is config.global_config
    assert config.model_copy(deep=True) == config
    assert config.model_copy(deep=True).global_config is not config.global_config
    with pytest.raises(SpecError, match="execution_mode"):
        config.model_copy(update={"execution_mode": "warp"})


def test_dumped_fields_validate_to_an_equal_object():
    for config in (QuantizerConfig.presets.w4(), ModuleMagnitudePrunerConfig(), QuantizationSpec(dtype="int4")):
        assert type(config).model_validate(config.model_dump()) == config
        assert type(config).model_validate(config) is config
    assert QuantizerConfig().to_dict() == {"quantization_config": QuantizerConfig().model_dump()}
    with pytest.raises(SpecError, match="3 is not a QuantizerConfig"):
        QuantizerConfig.model_validate(3)


def test_documents_come_as_streams_and_paths(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(TEXT, encoding="utf-8")
    expected = QuantizerConfig(global_config=ModuleQuantizerConfig(op_input_spec=None))
    with path.open("rb") as file:
        sources = [TEXT, path, str(path), io.StringIO(TEXT), file]
        assert [QuantizerConfig.from_yaml(source) for source in sources] == [expected] * 5
    with pytest.raises(SpecError, match="not UTF-8"):
        QuantizerConfig.from_yaml(io.BytesIO(b"\xff"))
    with path.open() as file, pytest.raises(SpecError, match=r"config\.yaml: no 'kmeans"):
        KMeansPalettizerConfig.from_yaml(file)


def test_a_disabled_category_reads_back_as_written():
    module = ModuleQuantizerConfig(op_input_spec={"*": None}, op_output_spec=None)
    again = QuantizerConfig.from_dict(QuantizerConfig(global_config=copy.deepcopy(module)).to_dict())
    assert (again.global_config.op_input_spec, again.global_config.op_output_spec) == ({"*": None}, None)


def test_other_spellings_are_read():
    assert PerBlockGranularity(axis=1, block_size=(2, 4)).block_shape((4, 8)) == (2, 4)
    spec = QuantizationSpec(dtype="float8_e4m3fn", scale_dtype="float8_e8m0")
    assert spec.scale_dtype is torch.float8_e8m0fnu
    for read in (ExecutionMode, lambda name: QuantizerConfig(execution_mode=name).execution_mode):
        with pytest.warns(DeprecationWarning, match="pt2e"):
            assert read("pt2e") is ExecutionMode.GRAPH
