"""Which spec a tensor gets: the most specific entry decides, and says where it stands."""

import pytest
import torch
from torch import nn

from graphpress.palettization import KMeansPalettizerConfig
from graphpress.passes.config import ConfigResolver, ModuleLevel, ModuleScope, OpLevel, OpSite
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization.config import KVCacheQuantConfig, OpQuantizerConfig, QATSchedule

ROOT = ModuleScope("", ("models.Net",))
LAYER = ModuleScope("layer1", ("models.Block",))
CONV = ModuleScope.of("layer1.conv", nn.Conv2d)
HEAD = ModuleScope.of("head", nn.Linear)

CONV_SITE = OpSite("conv2d", "aten.conv2d.default", (ROOT, LAYER, CONV))
ADD_SITE = OpSite("add", "add", (ROOT, LAYER), inputs=("input", "other"))
HEAD_SITE = OpSite("linear", "linear", (ROOT, HEAD))
SITES = [CONV_SITE, ADD_SITE, HEAD_SITE]


def bits(n_bits, **changes):
    """A spec told apart by its bits."""
    return QuantizationSpec(dtype=f"int{n_bits}", **changes)


def module(n_bits, **changes):
    """A module config whose weights have `n_bits`."""
    return ModuleQuantizerConfig(op_state_spec={"weight": bits(n_bits)}, **changes)


def op(n_bits):
    return OpQuantizerConfig(op_state_spec={"weight": bits(n_bits)})


def weight_bits(config, site):
    spec = ConfigResolver(config).state_spec(site, "weight")
    return None if spec is None else spec.n_bits


def test_the_default_config_reaches_every_op_and_leaves_biases():
    resolver = ConfigResolver(QuantizerConfig())
    for site in SITES:
        assert resolver.input_spec(site, 1) is not None
        assert resolver.output_spec(site, 0) is not None
        assert resolver.state_spec(site, "weight") is not None
        assert resolver.state_spec(site, "bias") is None


def test_names_beat_types_and_types_beat_the_global_config():
    config = QuantizerConfig(global_config=module(8))
    assert weight_bits(config, CONV_SITE) == 8
    config.set_module_type(nn.Conv2d, module(6))
    assert weight_bits(config, CONV_SITE) == 6
    config.set_module_name("layer1", module(4))
    assert weight_bits(config, CONV_SITE) == 4
    assert weight_bits(config, HEAD_SITE) == 8


def test_none_disables_its_scope_until_something_more_specific_speaks():
    config = QuantizerConfig(global_config=None)
    assert weight_bits(config, CONV_SITE) is None
    config.set_module_type("models.Block", module(8))
    assert weight_bits(config, CONV_SITE) == 8
    assert weight_bits(config, HEAD_SITE) is None
    config.set_module_type(nn.Conv2d, None)
    assert weight_bits(config, CONV_SITE) is None
    assert ConfigResolver(config).input_spec(ADD_SITE, 0) is not None
    config.set_module_name(r"layer\d\.conv", module(4))
    assert weight_bits(config, CONV_SITE) == 4


def test_the_innermost_module_of_a_listed_type_decides():
    for order in ([("models.Block", 4), (nn.Conv2d, 8)], [(nn.Conv2d, 8), ("models.Block", 4)]):
        config = QuantizerConfig(module_type_configs={kind: module(n) for kind, n in order})
        assert weight_bits(config, CONV_SITE) == 8
        assert weight_bits(config, ADD_SITE) == 4


@pytest.mark.parametrize(("names", "expected"), [(["layer1", "layer1.conv"], 8), (["layer1.conv", "layer1"], 8)])
def test_the_last_name_that_matches_wins_whichever_is_longer(names, expected):
    config = QuantizerConfig()
    for name, n_bits in zip(names, (4, 8), strict=True):
        config.set_module_name(name, module(n_bits))
    assert weight_bits(config, CONV_SITE) == expected


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("layer1", True), ("layer", False), (r"layer\d", True), ("layer1.*", True), ("conv", False), (r".*conv", True)],
)
def test_a_name_matches_whole_or_as_an_expression_for_the_whole(pattern, matches):
    config = QuantizerConfig(global_config=None).set_module_name(pattern, module(8))
    assert weight_bits(config, CONV_SITE) == (8 if matches else None)


def test_text_that_is_no_expression_is_a_name():
    site = OpSite("op", "add", (ROOT, ModuleScope("block(1")))
    config = QuantizerConfig(global_config=None).set_module_name("block(1", module(8))
    assert weight_bits(config, site) == 8


@pytest.mark.parametrize(
    "kind", [nn.Conv2d, "torch.nn.modules.conv.Conv2d", "torch.nn.Conv2d", "Conv2d", torch.nn.modules.conv.Conv2d]
)
def test_a_module_type_is_a_class_or_any_of_its_names(kind):
    config = QuantizerConfig(global_config=None).set_module_type(kind, module(8))
    assert weight_bits(config, CONV_SITE) == 8
    assert weight_bits(config, HEAD_SITE) is None


def test_within_a_module_config_states_beat_op_names_beat_op_types_beat_the_rest():
    layers = {}
    for change, expected in [
        ({"op_state_spec": {"weight": bits(2)}}, 2),
        ({"op_type_config": {"conv2d": op(3)}}, 3),
        ({"op_name_config": {"conv2d": op(4)}}, 4),
        ({"module_state_spec": {"weight": bits(6)}}, 6),
    ]:
        layers |= change
        assert weight_bits(QuantizerConfig(global_config=ModuleQuantizerConfig(**layers)), CONV_SITE) == expected


def test_an_op_config_decides_alone_and_none_leaves_the_op_whole():
    config = QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_type_config={"conv2d": None, "add": OpQuantizerConfig(op_input_spec={0: bits(4)}, op_output_spec=None)},
            op_name_config={"linear": OpQuantizerConfig(op_input_spec={})},
        )
    )
    resolver = ConfigResolver(config)
    assert resolver.input_spec(CONV_SITE, 0) is None
    assert resolver.state_spec(CONV_SITE, "weight") is None
    assert resolver.input_spec(ADD_SITE, 0).n_bits == 4
    assert resolver.input_spec(ADD_SITE, 1) is None
    assert resolver.output_spec(ADD_SITE, 0) is None
    assert resolver.input_spec(HEAD_SITE, 0) is None
    assert resolver.output_spec(HEAD_SITE, 0) is not None


def test_a_more_specific_level_enables_what_a_wider_one_disabled_within_a_module_config():
    config = QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_type_config={"conv2d": None, "linear": op(8)},
            op_name_config={"linear": None},
            module_state_spec={"bias": bits(8)},
        )
    )
    resolver = ConfigResolver(config)
    assert resolver.state_spec(HEAD_SITE, "weight") is None
    assert resolver.state_spec(CONV_SITE, "weight") is None
    assert resolver.state_spec(CONV_SITE, "bias").n_bits == 8


def test_a_module_config_does_not_inherit_from_wider_levels():
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_type_config={"conv2d": None}))
    config.set_module_name("layer1", ModuleQuantizerConfig())
    assert weight_bits(config, CONV_SITE) == 8


@pytest.mark.parametrize("op_type", ["conv2d", "aten.conv2d", "aten.conv2d.padding", "conv2d_"])
def test_op_types_are_known_by_any_spelling(op_type):
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_type_config={op_type: op(4)}))
    assert weight_bits(config, CONV_SITE) == 4


def test_concat_has_several_names():
    site = OpSite("cat", "aten.cat.default", (ROOT,))
    resolver = ConfigResolver(QuantizerConfig(global_config=ModuleQuantizerConfig(op_type_config={"concat": None})))
    assert resolver.input_spec(site, 0) is None


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"*": bits(8)}, (8, 8)),
        ({0: bits(4), "*": bits(8)}, (4, 8)),
        ({"*": bits(8), 1: None}, (8, None)),
        ({"other": bits(4)}, (None, 4)),
        ({"in.*": bits(4), "*": bits(8)}, (4, 8)),
        ({0: bits(4), "input": bits(6)}, (6, None)),
        ({"input": bits(6), 0: bits(4)}, (4, None)),
        ({"1": bits(4)}, (None, 4)),
        ({"inp": bits(4)}, (None, None)),
        ({}, (None, None)),
        (None, (None, None)),
    ],
)
def test_inputs_go_by_index_name_expression_or_star_and_explicit_keys_beat_the_star(table, expected):
    resolver = ConfigResolver(QuantizerConfig(global_config=ModuleQuantizerConfig(op_input_spec=table)))
    specs = [resolver.input_spec(ADD_SITE, index) for index in (0, 1)]
    assert tuple(spec and spec.n_bits for spec in specs) == expected


def test_a_name_can_be_given_with_the_question():
    resolver = ConfigResolver(QuantizerConfig(global_config=ModuleQuantizerConfig(op_input_spec={"x": bits(4)})))
    assert resolver.input_spec(CONV_SITE, 0, "x").n_bits == 4
    assert resolver.input_spec(CONV_SITE, 0) is None


@pytest.mark.parametrize(
    ("config", "source", "level", "op_level"),
    [
        (QuantizerConfig(), "global_config.op_state_spec['weight']", ModuleLevel.GLOBAL, OpLevel.OP),
        (QuantizerConfig(global_config=None), "global_config", ModuleLevel.GLOBAL, None),
        (
            QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec=None)),
            "global_config.op_state_spec",
            ModuleLevel.GLOBAL,
            OpLevel.OP,
        ),
        (
            QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec={"*": bits(8)})),
            "global_config.op_state_spec['*']",
            ModuleLevel.GLOBAL,
            OpLevel.OP,
        ),
        (
            QuantizerConfig().set_module_name("layer1.*", module(8, op_type_config={"conv2d": op(4)})),
            "module_name_configs['layer1.*'].op_type_config['conv2d'].op_state_spec['weight']",
            ModuleLevel.MODULE_NAME,
            OpLevel.OP_TYPE,
        ),
        (
            QuantizerConfig().set_module_type(nn.Conv2d, module(8, op_name_config={"conv.*": None})),
            "module_type_configs['torch.nn.modules.conv.Conv2d'].op_name_config['conv.*']",
            ModuleLevel.MODULE_TYPE,
            OpLevel.OP_NAME,
        ),
        (
            QuantizerConfig().set_module_name("layer1", module(8, module_state_spec={"w.*": None})),
            "module_name_configs['layer1'].module_state_spec['w.*']",
            ModuleLevel.MODULE_NAME,
            OpLevel.MODULE,
        ),
        (QuantizerConfig().without("layer1"), "module_name_configs['layer1']", ModuleLevel.MODULE_NAME, None),
    ],
)
def test_a_decision_says_which_entry_it_came_from(config, source, level, op_level):
    decision = ConfigResolver(config).explain_state(CONV_SITE, "weight")
    assert (decision.source, decision.level, decision.op_level) == (source, level, op_level)
    assert decision.explicit


def test_a_decision_tells_blanket_defaults_from_what_was_meant_for_this_op():
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_type_config={"conv2d": op(4)}))
    resolver = ConfigResolver(config.set_module_name("head", module(8)))
    assert resolver.explain_output(CONV_SITE, 0).is_specific
    assert resolver.explain_output(HEAD_SITE, 0).is_specific
    assert not resolver.explain_output(ADD_SITE, 0).is_specific


def test_a_boundary_belongs_to_the_module_its_entry_means():
    config = QuantizerConfig().set_module_name(
        "layer1", ModuleQuantizerConfig(module_input_spec={0: bits(4)}, module_output_spec={"*": None})
    )
    resolver = ConfigResolver(config)
    assert resolver.module_input_spec((ROOT, LAYER), 0).n_bits == 4
    assert not resolver.explain_module_input((ROOT, LAYER), 1).explicit
    closed = resolver.explain_module_output((ROOT, LAYER), 0)
    assert (closed.spec, closed.explicit) == (None, True)
    assert closed.source == "module_name_configs['layer1'].module_output_spec['*']"
    for stack in [(ROOT, LAYER, CONV), (ROOT,), (ROOT, HEAD)]:
        assert not resolver.explain_module_input(stack, 0).explicit


def test_a_type_entry_puts_boundaries_round_each_module_of_the_type():
    config = QuantizerConfig().set_module_type(
        "models.Block", ModuleQuantizerConfig(op_input_spec=None, module_input_spec={"*": bits(4)})
    )
    resolver = ConfigResolver(config)
    assert resolver.module_input_spec((ROOT, LAYER), 3).n_bits == 4
    assert resolver.module_input_spec((ROOT, LAYER, CONV), 0) is None
    assert not ConfigResolver(config.without("layer1")).explain_module_input((ROOT, LAYER), 0).explicit


def test_a_cache_entry_overrides_everything_about_its_op():
    site = OpSite("slice_scatter", "slice_scatter", (ROOT, LAYER), inputs=("input", "src"))
    cached = KVCacheQuantConfig(op_quantizer_config=OpQuantizerConfig(op_input_spec={"src": bits(4)}))
    config = QuantizerConfig(kv_cache_quant_configs={"slice_scatter": cached}).without("layer1")
    resolver = ConfigResolver(config)
    assert resolver.input_spec(site, 1).n_bits == 4
    assert resolver.input_spec(site, 0) is None
    assert resolver.output_spec(site, 0) is None
    assert resolver.state_spec(site, "weight") is None
    assert resolver.explain_input(site, 1).level is ModuleLevel.KV_CACHE
    assert resolver.input_spec(HEAD_SITE, 0) is not None


def test_the_governing_entry_leads_to_settings_such_as_schedules():
    schedule = QATSchedule(enable_fake_quant=3)
    config = QuantizerConfig().set_module_type(nn.Conv2d, ModuleQuantizerConfig(qat_schedule=schedule))
    resolver = ConfigResolver(config.without("head"))
    assert resolver.governing(CONV_SITE.module_stack).config.qat_schedule == schedule
    assert resolver.governing(ADD_SITE.module_stack).source == "global_config"
    assert resolver.governing(HEAD_SITE.module_stack).config is None


def test_a_resolver_is_a_snapshot():
    config = QuantizerConfig()
    resolver = ConfigResolver(config)
    config.set_global(None)
    assert resolver.input_spec(CONV_SITE, 0) is not None


def test_weight_only_techniques_have_nothing_to_say_about_activations():
    resolver = ConfigResolver(KMeansPalettizerConfig())
    assert resolver.state_spec(HEAD_SITE, "weight").n_bits == 4
    assert resolver.input_spec(HEAD_SITE, 0) is None
    assert resolver.output_spec(HEAD_SITE, 0) is None
