"""Entries that match nothing: an error by name, a warning by type, with near matches."""

import pickle
import warnings

import pytest
from torch import nn

from graphpress.config import UnmatchedConfigError, UnmatchedConfigWarning
from graphpress.ir.errors import GraphpressError
from graphpress.palettization import KMeansPalettizerConfig
from graphpress.passes.config import ModuleScope, OpSite, report_unmatched, unmatched_entries
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization.config import KVCacheQuantConfig, OpQuantizerConfig

ROOT = ModuleScope("", ("models.Net",))
CONV = ModuleScope.of("layer1.conv", nn.Conv2d)
HEAD = ModuleScope.of("head", nn.Linear)
NORM = ModuleScope.of("norm", nn.BatchNorm2d)
SITES = [
    OpSite("conv2d", "conv2d", (ROOT, CONV), ("input", "weight"), ("conv2d",), ("weight",)),
    OpSite("linear", "linear", (ROOT, HEAD), ("input", "weight", "bias"), ("linear",), ("weight", "bias")),
]
SPEC = QuantizationSpec()


def unmatched(config, sites=SITES, modules=()):
    return [str(entry) for entry in unmatched_entries(config, sites, modules)]


def quantizer(**fields):
    return QuantizerConfig(global_config=ModuleQuantizerConfig(**fields))


@pytest.mark.parametrize(
    "config",
    [
        QuantizerConfig(),
        KMeansPalettizerConfig(),
        QuantizerConfig.presets.w8().set_module_name("layer1.*", None).set_module_type("torch.nn.Linear", None),
        quantizer(op_type_config={"aten.linear": None}, op_name_config={"conv.*": None}),
        quantizer(op_input_spec={0: SPEC, 2: SPEC, "weight": None, "*": SPEC}),
        quantizer(op_state_spec={"weight": SPEC, "in_proj_weight": SPEC}),
        quantizer(module_state_spec={"weight": SPEC}),
    ],
    ids=range(7),
)
def test_nothing_is_said_about_a_config_that_fits(config):
    assert unmatched(config) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert report_unmatched(config, SITES) == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            QuantizerConfig().without("layer1.cnov"),
            "module_name_configs['layer1.cnov'] matches no module; did you mean 'layer1.conv'?",
        ),
        (
            QuantizerConfig().without("torch.nn.Linear"),
            "module_name_configs['torch.nn.Linear'] matches no module;"
            " it is a module type, which goes into module_type_configs",
        ),
        (
            quantizer(op_name_config={"linaer": None}),
            "global_config.op_name_config['linaer'] matches no op; did you mean 'linear'?",
        ),
        (
            quantizer(op_state_spec={"wieght": SPEC}),
            "global_config.op_state_spec['wieght'] matches no tensor of that name; did you mean 'weight'?",
        ),
        (
            quantizer(op_state_spec={"weight": SPEC, "bais": SPEC}),
            "global_config.op_state_spec['bais'] matches no tensor of that name; did you mean 'bias'?",
        ),
        (
            quantizer(module_state_spec={"kernel": SPEC}),
            "global_config.module_state_spec['kernel'] matches no tensor of that name",
        ),
        (
            quantizer(op_input_spec={"*": SPEC, 3: SPEC}),
            "global_config.op_input_spec[3] matches no tensor at that index; the most there are is 3, counted from 0",
        ),
        (
            quantizer(op_type_config={"conv2d": OpQuantizerConfig(op_input_spec={"biass": SPEC})}),
            "global_config.op_type_config['conv2d'].op_input_spec['biass'] matches no tensor of that name",
        ),
        (
            QuantizerConfig().set_module_name("head", ModuleQuantizerConfig(op_name_config={"conv2d": None})),
            "module_name_configs['head'].op_name_config['conv2d'] matches no op",
        ),
    ],
)
def test_a_name_that_matches_nothing_is_an_error_with_near_matches(config, message):
    assert unmatched(config) == [message]
    with pytest.raises(UnmatchedConfigError) as caught:
        report_unmatched(config, SITES)
    assert message in str(caught.value)
    assert "on_unmatched" in str(caught.value)
    assert isinstance(caught.value, GraphpressError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            QuantizerConfig().set_module_type("torch.nn.modules.linear.Linaer", None),
            "module_type_configs['torch.nn.modules.linear.Linaer'] matches no module of that type;"
            " did you mean 'Linear'?",
        ),
        (
            quantizer(op_type_config={"softmax": None}),
            "global_config.op_type_config['softmax'] matches no op of that type",
        ),
        (
            QuantizerConfig(
                kv_cache_quant_configs={
                    "slice": KVCacheQuantConfig(op_quantizer_config=OpQuantizerConfig(op_input_spec={0: SPEC}))
                }
            ),
            "kv_cache_quant_configs['slice'] matches no op of that type",
        ),
    ],
)
def test_a_type_that_matches_nothing_is_a_warning(config, message):
    assert unmatched(config) == [message]
    with pytest.warns(UnmatchedConfigWarning) as caught:
        entries = report_unmatched(config, SITES)
    assert message in str(caught[0].message)
    assert [str(entry) for entry in entries] == [message]


def test_one_setting_changes_both():
    config = QuantizerConfig().without("nowhere").set_module_type("nothing.Such", None)
    for setting in ("error", "warn", "ignore"):
        config.on_unmatched = setting
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if setting == "error":
                with pytest.raises(UnmatchedConfigError) as raised:
                    report_unmatched(config, SITES)
                assert len(raised.value.entries) == 2
            else:
                report_unmatched(config, SITES)
        assert len(caught) == (2 if setting == "warn" else 0)
    assert report_unmatched(config, SITES, on_unmatched="ignore") == ()


def test_a_module_in_which_no_op_runs_is_still_there():
    config = QuantizerConfig().without("norm", nn.BatchNorm2d)
    assert len(unmatched(config)) == 2
    assert unmatched(config, modules=[NORM]) == []


def test_tensors_are_not_judged_where_nobody_said_what_there_is():
    site = OpSite("linear", "linear", (ROOT, HEAD))
    assert unmatched(quantizer(op_state_spec={"kernel": SPEC}, op_input_spec={9: SPEC}), [site]) == []
