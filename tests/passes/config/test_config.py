"""Configs: three levels with defaults, presets, setters, and errors that say where."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from graphpress.config import CompressionConfig, SpecError
from graphpress.ir.errors import GraphpressError
from graphpress.palettization import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig, PalettizationSpec
from graphpress.palettization.config import OpKMeansPalettizerConfig, PATSchedule
from graphpress.palettization.spec import default_weight_palettization_spec
from graphpress.passes.config.quantization_spec import BiasCorrection, GPTQRounding
from graphpress.pruning import (
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    OpMagnitudePrunerConfig,
    PolynomialDecaySchedule,
    PruningSpec,
)
from graphpress.quantization import (
    ExecutionMode,
    InvalidExecutionModeError,
    ModuleQuantizerConfig,
    QuantizationSpec,
    QuantizerConfig,
)
from graphpress.quantization.config import KVCacheQuantConfig, OpQuantizerConfig, QATSchedule
from graphpress.quantization.spec import (
    PerBlockGranularity,
    PerChannelGranularity,
    default_activation_quantization_spec,
    default_weight_quantization_spec,
)

LINEAR = "torch.nn.modules.linear.Linear"
CONFIGS = [QuantizerConfig, KMeansPalettizerConfig, MagnitudePrunerConfig]


def test_quantization_without_arguments_is_int8_everywhere():
    tables = {
        "op_input_spec": {"*": default_activation_quantization_spec()},
        "op_output_spec": {"*": default_activation_quantization_spec()},
        "op_state_spec": {"weight": default_weight_quantization_spec()},
    }
    assert QuantizerConfig() == QuantizerConfig(global_config=ModuleQuantizerConfig())
    assert QuantizerConfig() == QuantizerConfig(global_config=ModuleQuantizerConfig(**tables))
    assert OpQuantizerConfig() == OpQuantizerConfig(**tables)


def test_palettization_without_arguments_is_four_bits_for_weights():
    spec = default_weight_palettization_spec()
    tables = {"op_state_spec": {"weight": spec, "in_proj_weight": spec}}
    assert KMeansPalettizerConfig() == KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig())
    assert KMeansPalettizerConfig() == KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(**tables))
    assert OpKMeansPalettizerConfig() == OpKMeansPalettizerConfig(**tables)


def test_pruning_without_arguments_is_half_of_each_weight():
    spec = PruningSpec(target_sparsity=0.5)
    tables = {"op_state_spec": {"weight": spec, "in_proj_weight": spec}}
    assert MagnitudePrunerConfig() == MagnitudePrunerConfig(global_config=ModuleMagnitudePrunerConfig(**tables))
    assert OpMagnitudePrunerConfig() == OpMagnitudePrunerConfig(**tables)


def test_defaults_are_fresh_each_time():
    first = QuantizerConfig()
    first.global_config.op_input_spec["*"] = None
    assert QuantizerConfig().global_config.op_input_spec["*"] is not None


def test_an_omitted_global_config_is_the_default_for_quantization():
    assert QuantizerConfig(module_type_configs={nn.Linear: None}).global_config == ModuleQuantizerConfig()
    assert QuantizerConfig(global_config=None, module_type_configs={nn.Linear: None}).global_config is None


@pytest.mark.parametrize("cls", [KMeansPalettizerConfig, MagnitudePrunerConfig])
def test_an_omitted_global_config_leaves_the_rest_whole_for_weights_alone(cls):
    module = cls.module_config_class()
    assert cls(module_type_configs={nn.Linear: module}).global_config is None
    assert cls(module_name_configs={"fc": module}).global_config is None
    assert cls(module_type_configs={}).global_config == module
    assert cls(global_config=module, module_type_configs={nn.Linear: None}).global_config == module
    assert cls().set_module_type(nn.Linear, None).global_config == module


@pytest.mark.parametrize("cls", CONFIGS)
def test_setters_return_the_config_and_the_last_entry_comes_last(cls):
    module = cls.module_config_class()
    config = cls()
    chained = config.set_module_type(nn.Linear, module).set_module_name("a", None).set_module_name("b", None)
    assert chained is config
    assert config.module_type_configs == {LINEAR: module}
    config.set_module_name("a", module)
    assert list(config.module_name_configs) == ["b", "a"]
    assert config.set_global(None).global_config is None


def test_only_for_gives_the_global_config_to_the_listed_and_leaves_the_rest():
    config = QuantizerConfig.presets.w4().only_for(nn.Linear, nn.Conv2d, "head")
    w4 = ModuleQuantizerConfig.presets.w4()
    expected = (
        QuantizerConfig(global_config=None)
        .set_module_type(nn.Linear, w4)
        .set_module_type(nn.Conv2d, w4)
        .set_module_name("head", w4)
    )
    assert config == expected
    first, second = config.module_type_configs.values()
    assert first is not second
    with pytest.raises(SpecError, match="global_config: only_for requires a non-disabled"):
        config.only_for(nn.Linear)
    with pytest.raises(SpecError, match="requires at least one target"):
        QuantizerConfig().only_for()


def test_without_leaves_the_listed_whole():
    config = QuantizerConfig.presets.w4().without(nn.LayerNorm, nn.Embedding, "model.lm_head")
    expected = QuantizerConfig.presets.w4()
    expected.set_module_type(nn.LayerNorm, None).set_module_type("torch.nn.modules.sparse.Embedding", None)
    assert config == expected.set_module_name("model.lm_head", None)


def weight(config):
    return config.global_config.op_state_spec["weight"]


def test_quantization_presets():
    presets = QuantizerConfig.presets
    for weight_only in (presets.w8(), presets.w4(), presets.w4_per_block(), presets.mxfp4()):
        assert weight_only.global_config.op_input_spec is None
        assert weight_only.global_config.op_output_spec is None
    assert weight(presets.w8()) == default_weight_quantization_spec()
    assert weight(presets.w4()).dtype is torch.int4
    assert weight(presets.w4()).granularity == PerChannelGranularity()
    assert weight(presets.w4_per_block()).granularity == PerBlockGranularity(block_size=32)
    assert weight(presets.w4_per_block(scale_dtype="float16")).scale_dtype is torch.float16
    assert weight(presets.mxfp4()).scale_dtype is torch.float8_e8m0fnu
    assert presets.w8a8() == QuantizerConfig()
    assert weight(presets.w4a8()).n_bits == 4
    assert presets.w4a8().global_config.op_input_spec["*"].n_bits == 8
    assert presets.fp8().global_config.op_output_spec["*"].dtype is torch.float8_e4m3fn
    assert weight(presets.best()).qparam_calculator_cls == "mse"
    assert presets.best().weight_rounding == GPTQRounding()
    assert presets.best().bias_correction is BiasCorrection.EMPIRICAL


def test_palettization_presets():
    presets = KMeansPalettizerConfig.presets
    assert [weight(getattr(presets, name)()).n_bits for name in ("w4", "w6", "w8")] == [4, 6, 8]
    assert weight(presets.w6()).granularity.group_size == 16
    assert weight(presets.w8()).granularity.type_name == "per_tensor"


@pytest.mark.parametrize("cls", [QuantizerConfig, KMeansPalettizerConfig])
def test_a_preset_is_the_same_for_a_module_and_ordinary_and_fresh(cls):
    for name in cls.presets.names:
        config = getattr(cls.presets, name)()
        assert type(config) is cls
        assert config.global_config == getattr(cls.module_config_class.presets, name)()
        config.global_config.op_state_spec["weight"] = None
        assert getattr(cls.presets, name)() != config


def test_an_unknown_preset_suggests_a_known_one():
    with pytest.raises(AttributeError, match="did you mean 'w4_per_block'") as caught:
        QuantizerConfig.presets.w4_per_blok()
    assert isinstance(caught.value, GraphpressError)
    assert not hasattr(QuantizerConfig.presets, "__wrapped__")


def test_execution_mode_by_name_or_member():
    assert QuantizerConfig(execution_mode="eager").execution_mode is ExecutionMode.EAGER
    assert QuantizerConfig().set_execution_mode(ExecutionMode.EAGER).execution_mode is ExecutionMode.EAGER
    with pytest.raises(InvalidExecutionModeError, match=r"execution_mode: 'egaer'.*'graph', 'eager'"):
        QuantizerConfig(execution_mode="egaer")
    with pytest.raises(ValueError, match="execution_mode"):
        QuantizerConfig().set_execution_mode("fast")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"enable_observer": 5, "enable_fake_quant": 4}, "enable_fake_quant"),
        ({"disable_observer": 0}, "disable_observer"),
        ({"enable_fake_quant": 9, "disable_observer": 8}, "disable_observer"),
        ({"enable_observer": -1}, "enable_observer"),
    ],
)
def test_a_schedule_must_be_possible(arguments, field):
    with pytest.raises(SpecError, match=f"{field}: .*accepted|{field}: .*integer"):
        QATSchedule(**arguments)


def test_schedules_stand_in_module_configs():
    assert ModuleQuantizerConfig(qat_schedule={"enable_fake_quant": 3}).qat_schedule == QATSchedule(enable_fake_quant=3)
    assert ModuleKMeansPalettizerConfig(pat_schedule=PATSchedule()).pat_schedule.enable_fake_palettize == 0
    scheduled = ModuleMagnitudePrunerConfig(sparsity_schedule={"type": "polynomial_decay", "total_iters": 10})
    assert scheduled.sparsity_schedule == PolynomialDecaySchedule(total_iters=10)


@pytest.mark.parametrize("inputs", [None, {}, {"*": {}}, {0: {}, 1: {}}, {0: None}])
def test_a_cache_is_one_input(inputs):
    with pytest.raises(SpecError, match=r"op_quantizer_config\.op_input_spec: .*one input"):
        KVCacheQuantConfig(op_quantizer_config={"op_input_spec": inputs})


WRONG = [
    (
        {"global_config": {"op_state_spec": {"weight": {"n_bits": 4}}}},
        r"^global_config\.op_state_spec\.weight\.n_bits: .*got 4.*accepted: dtype",
    ),
    (
        {"module_name_configs": {"layer1.*": {"op_type_config": {"conv2d": {"op_state_spec": {"weight": 4}}}}}},
        r"^module_name_configs\['layer1\.\*'\]\.op_type_config\.conv2d\.op_state_spec\.weight: 4 is not a Quant",
    ),
    (
        {"global_config": {"op_input_spec": {"*": {"granularity": {"type": "per_block", "block_size": 0}}}}},
        r"^global_config\.op_input_spec\['\*'\]\.granularity\.block_size: 0 ",
    ),
    ({"global_config": {"op_input_spec": {-1: {}}}}, r"^global_config\.op_input_spec: -1 is no key"),
    ({"global_config": {"op_state_spec": {0: {}}}}, r"^global_config\.op_state_spec: 0 is no key"),
    ({"global_config": {"op_input_spec": {0: {}, "0": {}}}}, r"^global_config\.op_input_spec\[0\]: .*twice"),
    ({"global_config": {"op_input_spec": QuantizationSpec()}}, r"accepted: \{'\*': spec\}"),
    ({"global_config": {"op_type_config": ["linear"]}}, r"^global_config\.op_type_config: .*not a dictionary"),
    ({"global_config": "w8"}, r"^global_config: 'w8' is not a ModuleQuantizerConfig"),
    ({"global_confg": None}, r"^global_confg: .*did you mean 'global_config'"),
    ({"module_type_configs": {7: None}}, r"^module_type_configs: 7 is no key"),
    ({"module_name_configs": {nn.Linear: None}}, r"^module_name_configs: .*is no key"),
    ({"on_unmatched": "eror"}, r"^on_unmatched: .*'error'"),
    ({"preserved_attributes": "name"}, r"^preserved_attributes: 'name' is not a list"),
    ({"kv_cache_quant_configs": {"slice": {}}}, r"^kv_cache_quant_configs\.slice: .*needs op_quantizer_config"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_an_error_names_path_value_and_what_is_accepted_from_python_and_from_data(arguments, message):
    with pytest.raises(SpecError, match=message):
        QuantizerConfig(**arguments)
    with pytest.raises(SpecError, match=message):
        QuantizerConfig.from_dict({"quantization_config": arguments})


@pytest.mark.parametrize("cls", [ModuleKMeansPalettizerConfig, ModuleMagnitudePrunerConfig, OpKMeansPalettizerConfig])
def test_activations_have_no_place_where_only_weights_are_compressed(cls):
    with pytest.raises(TypeError, match=r"op_input_spec: .*only weights"):
        cls(op_input_spec={"*": {}})
    assert cls().op_input_spec is None
    nothing = {"op_input_spec": None, "op_output_spec": {"*": None}}
    assert cls(**nothing) == cls()
    assert cls(op_input_spec={}) == cls()


def test_an_assignment_is_checked_like_an_argument():
    config = QuantizerConfig()
    config.global_config = {"op_input_spec": None}
    assert config.global_config == ModuleQuantizerConfig(op_input_spec=None)
    with pytest.raises(SpecError, match="global_config: 3"):
        config.global_config = 3
    with pytest.raises(SpecError, match=r"module_type_configs\['torch.nn.modules.linear.Linear'\]: 3"):
        config.set_module_type(nn.Linear, 3)


def rich_config():
    return (
        QuantizerConfig.presets.best()
        .set_module_type(nn.Linear, ModuleQuantizerConfig.presets.w4_per_block())
        .set_module_type(nn.LayerNorm, None)
        .set_module_name(
            "encoder.*",
            ModuleQuantizerConfig(
                op_input_spec={0: QuantizationSpec(), "mask": None, "*": QuantizationSpec(dtype="uint8")},
                op_type_config={"softmax": None, "linear": OpQuantizerConfig(op_output_spec=None)},
                op_name_config={"linear_1": OpQuantizerConfig(op_state_spec={"weight": None})},
                module_input_spec={1: QuantizationSpec(float_range=(-1, 1))},
                qat_schedule=QATSchedule(enable_fake_quant=2, disable_observer=5),
            ),
        )
        .set_execution_mode("eager")
    )


def joint_configs() -> list[CompressionConfig]:
    cached = KVCacheQuantConfig(
        op_quantizer_config=OpQuantizerConfig(op_input_spec={0: QuantizationSpec(dtype="int8")})
    )
    quantization = rich_config()
    quantization.kv_cache_quant_configs = {"slice_scatter": cached}
    quantization.preserved_attributes = ["vocabulary"]
    palettization = KMeansPalettizerConfig.presets.w4().set_module_type(
        nn.Linear,
        ModuleKMeansPalettizerConfig(
            op_state_spec={"weight": PalettizationSpec(n_bits=2, lut_qspec=QuantizationSpec())}, pat_schedule={}
        ),
    )
    pruning = MagnitudePrunerConfig(
        module_name_configs={
            "head": ModuleMagnitudePrunerConfig(
                op_state_spec={"weight": PruningSpec(pruning_scheme="channel_structured")},
                sparsity_schedule=PolynomialDecaySchedule(total_iters=100),
            )
        },
        on_unmatched="warn",
    )
    return [quantization, palettization, pruning, *(cls() for cls in CONFIGS)]


@pytest.mark.parametrize("config", joint_configs(), ids=lambda config: type(config).__name__)
def test_a_config_comes_back_exactly_from_every_form(config, tmp_path):
    cls = type(config)
    assert cls.from_dict(config.to_dict()) == config
    assert cls.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert cls.from_yaml(config.to_yaml()) == config
    assert config.to_yaml(tmp_path / "config.yaml") == (tmp_path / "config.yaml").read_text()
    assert cls.from_yaml(str(tmp_path / "config.yaml")) == config
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert cls.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]


def test_the_order_of_entries_survives_since_the_last_one_wins():
    config = QuantizerConfig().set_module_name("b", None).set_module_name("a", None)
    assert list(QuantizerConfig.from_yaml(config.to_yaml()).module_name_configs) == ["b", "a"]


def test_the_callers_dictionaries_stay_as_they_are_and_are_not_kept():
    data = {"quantization_config": {"global_config": {"op_state_spec": {"weight": {"dtype": "int4"}}}}}
    before = copy.deepcopy(data)
    config = QuantizerConfig.from_dict(data)
    config.global_config.op_state_spec["bias"] = None
    assert data == before
    tables = {"weight": QuantizationSpec()}
    module = ModuleQuantizerConfig(op_state_spec=tables)
    tables["bias"] = None
    assert module.op_state_spec == {"weight": QuantizationSpec()}
    plain = config.to_dict()
    plain["quantization_config"]["global_config"] = None
    assert config.global_config is not None


def test_module_and_op_configs_are_plain_data_too():
    module = rich_config().module_name_configs["encoder.*"]
    assert ModuleQuantizerConfig.from_dict(module.to_dict()) == module
    with pytest.raises(SpecError, match="not a dictionary of the arguments"):
        ModuleQuantizerConfig.from_dict([])
