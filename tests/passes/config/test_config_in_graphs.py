"""What entries of a config do to a model in graph mode: module boundaries, inputs by index and name, caches."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from graphpress.backends.coreai import convert, read
from graphpress.ir.dtypes import DType
from graphpress.passes.config import SpecError, UnmatchedConfigError, UnmatchedConfigWarning
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.config import KVCacheQuantConfig, OpQuantizerConfig
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase

WIDE, NARROW = QuantizationSpec(dtype="uint8", qscheme="asymmetric"), QuantizationSpec(dtype="int4")
NOTHING = {"op_input_spec": None, "op_output_spec": None, "op_state_spec": None}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.dropout = nn.Linear(8, 8), nn.Linear(8, 8), nn.Dropout()

    def forward(self, x, y):
        return self.dropout(torch.sin(self.first(x) + self.second(y)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.block, self.after = nn.Linear(8, 8), Block(), nn.Linear(8, 4)
        self.vocabulary = ["a", "b"]

    def forward(self, x, extra):
        return self.after(self.block(self.before(x), extra))

    def spelled(self):
        return "".join(self.vocabulary)


INPUTS = (torch.randn(2, 8, generator=torch.Generator().manual_seed(1)), torch.ones(2, 8))


def prepared_with(module_config, name="block", *, rest=None, model=None, **options):
    config = QuantizerConfig(global_config=rest, module_name_configs={name: module_config}, **options)
    quantizer = Quantizer(model or Model().eval(), config)
    return quantizer, quantizer.prepare(INPUTS)


def quantizers(prepared):
    return {q.name: q.spec for q in prepared.modules() if isinstance(q, FakeQuantizeImplBase)}


# module boundaries


def test_what_enters_a_module_is_quantized_by_index_even_where_no_op_inside_is():
    _, prepared = prepared_with(ModuleQuantizerConfig(**NOTHING, module_input_spec={1: WIDE}))
    assert quantizers(prepared) == {"linear_2_input": WIDE}
    assert prepared.graph.find_nodes(op="call_module", target="quantizers.linear_2_input")[0].args[0].name == "extra"


def test_what_leaves_a_module_is_quantized_even_after_an_op_that_is_not():
    _, prepared = prepared_with(ModuleQuantizerConfig(**NOTHING, module_output_spec={"*": NARROW}))
    assert quantizers(prepared) == {"dropout_output": NARROW}


def test_a_boundary_overwrites_what_ops_say_on_both_of_its_sides():
    settings = ModuleQuantizerConfig(module_input_spec={0: NARROW}, module_output_spec={0: WIDE})
    _, prepared = prepared_with(settings, rest=ModuleQuantizerConfig())
    found = quantizers(prepared)
    assert found["linear_output"] == NARROW  # the layer before, whose result enters
    assert found["dropout_output"] == WIDE  # also what the layer after reads
    assert "linear_3_input" not in found
    assert found["linear_2_input"] == QuantizationSpec(qparam_calculator_cls="moving_average")


def test_none_at_a_boundary_disables_what_the_ops_inside_would_do():
    inside = ModuleQuantizerConfig(module_input_spec={1: None})
    assert "linear_2_input" not in quantizers(prepared_with(inside)[1])
    assert "linear_2_input" in quantizers(prepared_with(ModuleQuantizerConfig())[1])


def test_the_models_own_boundary_goes_by_the_names_and_order_of_its_arguments():
    _, prepared = prepared_with(
        ModuleQuantizerConfig(**NOTHING, module_input_spec={"extra": NARROW}, module_output_spec={0: WIDE}), name=""
    )
    assert quantizers(prepared) == {"linear_2_input": NARROW, "linear_3_output": WIDE}


def test_a_type_puts_boundaries_round_every_module_of_the_type():
    config = QuantizerConfig(global_config=None)
    config.set_module_type(nn.Linear, ModuleQuantizerConfig(**NOTHING, module_output_spec={"*": WIDE}))
    prepared = Quantizer(Model().eval(), config).prepare(INPUTS)
    assert set(quantizers(prepared)) == {f"linear{suffix}_output" for suffix in ("", "_1", "_2", "_3")}


def test_boundaries_are_finalized_as_they_were_prepared():
    settings = ModuleQuantizerConfig(module_input_spec={0: WIDE}, module_output_spec={0: WIDE})
    quantizer, prepared = prepared_with(settings, rest=ModuleQuantizerConfig())
    with quantizer.calibration_mode():
        prepared(*INPUTS)
    assert torch.equal(quantizer.finalize()(*INPUTS), prepared(*INPUTS))


# inputs and outputs by index and name


@pytest.mark.parametrize("key", [1, "other", "oth.*"])
def test_one_input_of_an_op_is_named_by_index_name_or_expression(key):
    only = OpQuantizerConfig(op_input_spec={key: NARROW}, op_output_spec=None)
    _, prepared = prepared_with(ModuleQuantizerConfig(**NOTHING, op_type_config={"add": only}))
    assert quantizers(prepared) == {"add_other": NARROW}


def test_keys_of_both_kinds_go_together_and_the_explicit_one_wins():
    only = OpQuantizerConfig(op_input_spec={0: NARROW, "other": None, "*": WIDE}, op_output_spec=None)
    _, prepared = prepared_with(ModuleQuantizerConfig(**NOTHING, op_type_config={"add": only}))
    assert quantizers(prepared) == {"add_self": NARROW}


class Two(nn.Module):
    def forward(self, x):
        low, high = (x * 2).chunk(2, -1)
        return low + 1.5, high * 0.5


def test_one_of_several_outputs_is_named_by_its_index():
    each = OpQuantizerConfig(op_input_spec=None, op_output_spec={1: WIDE})
    config = QuantizerConfig(
        global_config=ModuleQuantizerConfig(**NOTHING, module_output_spec={1: WIDE}),
        module_name_configs={"x": None},
        on_unmatched="ignore",
    )
    assert each.op_output_spec == {1: WIDE}
    prepared = Quantizer(Two().eval(), config).prepare((torch.randn(2, 8),))
    assert list(quantizers(prepared)) == ["mul_1_output"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"op_type_config": {"add": {"op_input_spec": {5: {}}}}}, r"add'\]\.op_input_spec\[5\].*most there are is 2"),
        ({"op_type_config": {"add": {"op_input_spec": {"othr": {}}}}}, "did you mean 'other'"),
        ({"op_type_config": {"add": {"op_output_spec": {1: {}}}}}, r"op_output_spec\[1\].*most there are is 1"),
        ({"module_input_spec": {2: {}}}, r"module_input_spec\[2\] matches no tensor at that index.*is 2"),
        ({"module_output_spec": {"outputt_0": {}}}, "module_output_spec.*did you mean 'output_0'"),
    ],
)
def test_an_index_or_name_that_no_op_or_module_has_is_an_error(config, message):
    with pytest.raises(UnmatchedConfigError, match=message):
        prepared_with(ModuleQuantizerConfig(**config))


def test_a_module_in_which_nothing_runs_is_there_all_the_same(recwarn):
    config = QuantizerConfig().set_module_type(nn.Dropout, None).set_module_name("block.dropout", None)
    Quantizer(Model().eval(), config).prepare(INPUTS)
    assert [w for w in recwarn if w.category is UnmatchedConfigWarning] == []
    with pytest.raises(UnmatchedConfigError, match=r"did you mean 'block\.dropout'"):
        Quantizer(Model().eval(), QuantizerConfig().set_module_name("block.dropot", None)).prepare(INPUTS)


# attributes


def test_named_attributes_of_the_model_stay():
    model = Model().eval()
    quantizer, prepared = prepared_with(
        ModuleQuantizerConfig(), model=model, preserved_attributes=["vocabulary", "spelled"]
    )
    for module in (prepared, quantizer.finalize(), copy.deepcopy(prepared)):
        assert module.spelled() == "ab"
        assert module.vocabulary is not model.vocabulary


@pytest.mark.parametrize(
    ("name", "message"), [("vocabulry", "did you mean 'vocabulary'"), ("forward", "of every module")]
)
def test_an_attribute_that_cannot_stay_is_an_error(name, message):
    with pytest.raises(SpecError, match=rf"preserved_attributes\[0\].*{message}"):
        prepared_with(ModuleQuantizerConfig(), preserved_attributes=[name])


def test_attributes_that_are_data_survive_pickle():
    _, prepared = prepared_with(ModuleQuantizerConfig(), preserved_attributes=["vocabulary"])
    assert pickle.loads(pickle.dumps(prepared)).vocabulary == ["a", "b"]


# key-value caches


class Cached(nn.Module):
    """Attention scores against keys kept so far."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.key, self.way = nn.Linear(4, 4), way
        self.register_buffer("cache", torch.zeros(1, 2, 8, 4))

    def forward(self, x, position):
        key = self.key(x)
        if self.way == "index_copy":
            self.cache.index_copy_(2, position, key)
        elif self.way == "index_put":
            self.cache[:, :, position] = key
        else:
            self.cache[:, :, 3:4] = key
        return x @ self.cache.transpose(-1, -2)


def tokens(seed):
    return torch.randn(1, 2, 1, 4, generator=torch.Generator().manual_seed(seed)), torch.tensor([seed % 8])


def cached(way, key, spec=None):
    cache = KVCacheQuantConfig(op_quantizer_config=OpQuantizerConfig(op_input_spec={key: spec or QuantizationSpec()}))
    config = QuantizerConfig(kv_cache_quant_configs={way: cache})
    quantizer = Quantizer(Cached(way).eval(), config)
    prepared = quantizer.prepare(tokens(0))
    assert not prepared.cache.any(), "the example leaves nothing in the cache"
    with quantizer.calibration_mode():
        for seed in range(3):
            prepared(*tokens(seed))
    return quantizer, prepared


@pytest.mark.parametrize(
    ("way", "key"), [("index_copy", "source"), ("index_copy", 2), ("index_put", "self"), ("slice_scatter", "src")]
)
def test_a_cache_is_kept_in_codes_and_gives_what_the_prepared_model_gives(way, key):
    quantizer, prepared = cached(way, key)
    finalized = quantizer.finalize()
    assert finalized.cache.dtype is torch.int8
    for seed in range(3, 9):
        assert torch.equal(finalized(*tokens(seed)), prepared(*tokens(seed)))
    assert finalized.cache.unique().numel() > 8


def test_the_asset_keeps_the_cache_in_codes_too(tmp_path):
    quantizer, _ = cached("index_copy", "source")
    finalized = quantizer.finalize()
    convert(finalized, tmp_path / "m.aimodel", tokens(3))
    (state,) = read(tmp_path / "m.aimodel").function().states
    assert state.dtype is DType.INT8


@pytest.mark.parametrize(
    ("way", "key", "spec", "message"),
    [
        ("index_copy", "src", None, "matches no input of index_copy.*'source'"),
        ("index_copy", 7, None, "accepted: 0 or 'self'"),
        ("matmul", 0, None, "updates no cache; accepted: an op that reads a buffer"),
        ("index_copy", 0, QuantizationSpec(dtype="int4"), "not kept in torch.int4; accepted: torch.int8"),
        ("index_copy", 0, QuantizationSpec(granularity="per_channel"), "accepted: per_tensor"),
    ],
)
def test_what_cannot_be_a_cache_is_an_error(way, key, spec, message):
    cache = KVCacheQuantConfig(op_quantizer_config=OpQuantizerConfig(op_input_spec={key: spec or QuantizationSpec()}))
    with pytest.raises(QuantizationError, match=message):
        Quantizer(Cached("index_copy").eval(), QuantizerConfig(kv_cache_quant_configs={way: cache})).prepare(tokens(0))
