"""Configs in YAML: the documented examples, anchors, and what a reader must refuse."""

import pytest
import torch
from torch import nn

from graphpress.config import SpecError
from graphpress.ir.plain import PlainError
from graphpress.palettization import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig, PalettizationSpec
from graphpress.pruning import MagnitudePrunerConfig
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization.config import OpQuantizerConfig
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity


def test_palettization_to_four_bits_and_linear_to_eight():
    config = KMeansPalettizerConfig.from_yaml("""
kmeans_palettization_config:
  global_config:
    op_state_spec:
      weight: &four
        n_bits: 4
        granularity: { type: per_grouped_channel, axis: 0, group_size: 16 }
      in_proj_weight: *four
  module_type_configs:
    torch.nn.modules.linear.Linear:
      op_state_spec:
        weight: &eight
          n_bits: 8
          granularity: { type: per_tensor }
        in_proj_weight: *eight
""")
    assert config == KMeansPalettizerConfig.presets.w4().set_module_type(
        nn.Linear, ModuleKMeansPalettizerConfig.presets.w8()
    )


def test_palettization_of_two_module_types_alone():
    config = KMeansPalettizerConfig.from_yaml("""
kmeans_palettization_config:
  module_type_configs:
    torch.nn.modules.linear.Linear:
      op_state_spec:
        weight:
          n_bits: 8
          granularity: { type: per_tensor }
    torch.nn.modules.conv.Conv2d:
      op_state_spec:
        weight:
          n_bits: 4
          granularity: { type: per_tensor }
""")
    assert config.global_config is None
    assert config == KMeansPalettizerConfig(
        module_type_configs={
            "torch.nn.modules.linear.Linear": ModuleKMeansPalettizerConfig(
                op_state_spec={"weight": PalettizationSpec(n_bits=8)}
            ),
            "torch.nn.modules.conv.Conv2d": ModuleKMeansPalettizerConfig(
                op_state_spec={"weight": PalettizationSpec(n_bits=4)}
            ),
        }
    )


def test_anchors_under_another_top_key_and_empty_values_for_none():
    config = QuantizerConfig.from_yaml("""
quantization_spec:
  spec1: &fp8_activation
    dtype: float8_e4m3fn
  spec2: &mxfp4_weight
    dtype: float4_e2m1fn_x2
    granularity: { type: per_block, block_size: 32 }
    scale_dtype: float8_e8m0fnu
palettization_spec:
  unused: &unused {n_bits: 2}
quantization_config:
  global_config:
    op_input_spec:
      "*": *fp8_activation
      0:
        <<: *fp8_activation
        float_range: [0, 6]
    op_output_spec:
    op_state_spec:
      weight: *mxfp4_weight
    op_type_config:
      softmax: null
      concat:
        op_output_spec: ~
  module_name_configs:
    head:
""")
    activation = QuantizationSpec(dtype=torch.float8_e4m3fn)
    weight = QuantizationSpec(
        dtype=torch.float4_e2m1fn_x2,
        granularity=PerBlockGranularity(block_size=32),
        scale_dtype=torch.float8_e8m0fnu,
    )
    ranged = QuantizationSpec(dtype=torch.float8_e4m3fn, float_range=(0, 6))
    assert config == QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_input_spec={"*": activation, 0: ranged},
            op_output_spec=None,
            op_state_spec={"weight": weight},
            op_type_config={"softmax": None, "concat": OpQuantizerConfig(op_output_spec=None)},
        ),
        module_name_configs={"head": None},
    )


def test_no_global_config_is_the_default_and_null_is_none():
    assert QuantizerConfig.from_yaml("quantization_config:\n") == QuantizerConfig()
    assert QuantizerConfig.from_yaml("quantization_config: {global_config: {}}") == QuantizerConfig()
    assert QuantizerConfig.from_yaml("quantization_config: {global_config: null}").global_config is None


def test_granularity_without_an_axis():
    spec = QuantizationSpec.from_dict({"dtype": "int8", "granularity": {"type": "per_channel"}})
    assert spec.granularity == PerChannelGranularity()


def test_pruning_has_two_names_for_its_section():
    section = {"global_config": {"op_state_spec": {"weight": {"target_sparsity": 0.75}}}}
    config = MagnitudePrunerConfig.from_dict({"pruning_config": section})
    assert config == MagnitudePrunerConfig.from_dict({"magnitude_pruning_config": section})
    assert list(config.to_dict()) == ["pruning_config"]
    with pytest.raises(SpecError, match="mean the same"):
        MagnitudePrunerConfig.from_dict({"pruning_config": {}, "magnitude_pruning_config": {}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantization_confg: {}\n", "no 'quantization_config' at the top, only 'quantization_confg'"),
        ("global_config: {}\n", "no 'quantization_config' at the top"),
        ("- quantization_config: {}\n", "not a dictionary"),
        ("quantization_config: [1]\n", "quantization_config: .*not a dictionary"),
        ("quantization_config: {global_config: {}, global_config: null}\n", "'global_config' is a duplicate key"),
        ("quantization_config: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("quantization_config: {a: *missing}\n", "not valid YAML"),
        ("missing.yaml", r"'missing\.yaml' cannot be read"),
    ],
)
def test_a_document_that_cannot_be_meant_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        QuantizerConfig.from_yaml(text)


def test_writing_that_fails_leaves_the_old_file_whole(tmp_path):
    target = tmp_path / "config.yaml"
    QuantizerConfig().to_yaml(target)
    before = target.read_text()
    broken = QuantizerConfig()
    broken.preserved_attributes = ["ok"]
    broken.preserved_attributes.append(object())
    with pytest.raises(PlainError, match=r"preserved_attributes\[1\]: <object .* is not plain data"):
        broken.to_yaml(target)
    assert target.read_text() == before
    assert list(tmp_path.iterdir()) == [target]
