"""Specs say what to do to one tensor; they are values, and cannot be made wrong."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.dtypes import DType
from graphpress.ir.errors import GraphpressError
from graphpress.passes.config import (
    QPARAM_CALCULATORS,
    ArgumentError,
    ChannelStructured,
    ComponentRegistry,
    ConstantSparsitySchedule,
    PalettizationSpec,
    PerBlockGranularity,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    PolynomialDecaySchedule,
    PruningSpec,
    QuantizationFormulation,
    QuantizationScheme,
    QuantizationSpec,
    SpecError,
    StraightThroughTrainingSpec,
    default_activation_quantization_spec,
    default_weight_quantization_spec,
)

INTEGERS = ["int2", "int3", "int4", "int6", "int8", "uint2", "uint3", "uint4", "uint6", "uint8"]


@pytest.mark.parametrize("name", [*INTEGERS, "float8_e4m3fn", "float8_e5m2"])
def test_a_dtype_is_given_by_name_torch_dtype_or_element_type(name):
    spec = QuantizationSpec(dtype=name)
    assert spec == QuantizationSpec(dtype=getattr(torch, name)) == QuantizationSpec(dtype=DType.of(name))
    assert spec.dtype is getattr(torch, name)


@pytest.mark.parametrize(
    ("dtype", "scheme", "n_bits", "target", "low", "high"),
    [
        ("int8", "symmetric", 8, torch.int8, -128, 127),
        ("int8", "symmetric_with_clipping", 8, torch.int8, -127, 127),
        ("uint8", "symmetric_with_clipping", 8, torch.uint8, 1, 255),
        ("uint8", "asymmetric", 8, torch.uint8, 0, 255),
        ("int4", "symmetric", 4, torch.int8, -8, 7),
        ("int4", "symmetric_with_clipping", 4, torch.int8, -7, 7),
        ("uint2", "asymmetric", 2, torch.uint8, 0, 3),
        ("float8_e4m3fn", "symmetric", 8, torch.float8_e4m3fn, -448.0, 448.0),
        ("float8_e5m2", "symmetric", 8, torch.float8_e5m2, -57344.0, 57344.0),
        ("float4_e2m1fn", "symmetric", 4, torch.float8_e4m3fn, -6.0, 6.0),
    ],
)
def test_bits_and_range_follow_from_dtype_and_scheme(dtype, scheme, n_bits, target, low, high):
    spec = QuantizationSpec(dtype=dtype, qscheme=scheme)
    assert (spec.n_bits, spec.target_dtype, spec.quant_min, spec.quant_max) == (n_bits, target, low, high)


def test_what_follows_cannot_be_set():
    with pytest.raises(AttributeError):
        QuantizationSpec().n_bits = 4
    with pytest.raises(AttributeError):
        QuantizationSpec().dtype = torch.int4


def test_float4_takes_power_of_two_scales_by_default():
    assert QuantizationSpec(dtype="float4_e2m1fn").scale_dtype is torch.float8_e8m0fnu
    assert QuantizationSpec(dtype=torch.float4_e2m1fn_x2) == QuantizationSpec(dtype="float4_e2m1fn")
    assert QuantizationSpec(dtype="float8_e4m3fn").scale_dtype is None


def test_names_and_enumerations_make_the_same_spec():
    by_name = QuantizationSpec(qscheme="asymmetric", qformulation="minval", granularity={"type": "per_channel"})
    assert by_name == QuantizationSpec(
        qscheme=QuantizationScheme.ASYMMETRIC,
        qformulation=QuantizationFormulation.MINVAL,
        granularity=PerChannelGranularity(),
    )


WRONG = [
    (QuantizationSpec, {"dtpye": "int8"}, "dtpye: QuantizationSpec takes no 'dtpye'.*did you mean 'dtype'.*qscheme"),
    (QuantizationSpec, {"n_bits": 4}, r"n_bits: .*dtype='int4'"),
    (QuantizationSpec, {"dtype": "int5"}, "dtype: .*accepted: int8"),
    (QuantizationSpec, {"dtype": torch.float32}, "dtype: torch.float32 .*float4_e2m1fn"),
    (QuantizationSpec, {"dtype": 8}, "dtype: .*accepted"),
    (QuantizationSpec, {"qscheme": "symetric"}, "qscheme: .*did you mean 'symmetric'"),
    (QuantizationSpec, {"qformulation": None}, "qformulation: None .*'zp', 'minval'"),
    (QuantizationSpec, {"granularity": "per_block"}, "granularity: PerBlockGranularity needs block_size"),
    (QuantizationSpec, {"granularity": {"type": "per_blok"}}, "granularity.type: .*'per_block'"),
    (QuantizationSpec, {"granularity": {"axis": 0}}, "granularity.type: .*needs a type"),
    (QuantizationSpec, {"granularity": {"type": "per_channel", "axes": 0}}, "granularity.axes: .*'axis'"),
    (QuantizationSpec, {"granularity": PerTensorGranularity}, "granularity: .*accepted: PerTensorGranularity"),
    (QuantizationSpec, {"granularity": PerGroupedChannelGranularity(group_size=2)}, "granularity: .*per_block"),
    (QuantizationSpec, {"dtype": "float8_e5m2", "qscheme": "asymmetric"}, "qscheme: .*takes 'symmetric'"),
    (QuantizationSpec, {"dtype": "float8_e5m2", "qscheme": "symmetric_with_clipping"}, "qscheme: "),
    (QuantizationSpec, {"dtype": "float8_e5m2", "qformulation": "minval"}, "qformulation: .*takes 'zp'"),
    (QuantizationSpec, {"dtype": "uint8", "scale_dtype": "float8_e8m0fnu"}, "scale_dtype: .*accepted: None"),
    (QuantizationSpec, {"dtype": "float8_e5m2", "scale_dtype": "float16"}, "scale_dtype: .*float8_e8m0fnu"),
    (QuantizationSpec, {"float_range": (0.5, 1.0)}, "float_range: .*min <= 0 <= max"),
    (QuantizationSpec, {"float_range": (None, -1)}, "float_range: "),
    (QuantizationSpec, {"float_range": (0, 0)}, "float_range: "),
    (QuantizationSpec, {"float_range": (0, float("nan"))}, "float_range: "),
    (QuantizationSpec, {"float_range": 6.0}, "float_range: .*not a pair"),
    (QuantizationSpec, {"qparam_calculator_cls": "movingaverage"}, "qparam_calculator_cls: .*'moving_average'"),
    (QuantizationSpec, {"fake_quantize_cls": 3}, "fake_quantize_cls: "),
    (PalettizationSpec, {"n_bits": 5}, "n_bits: 5 .*1, 2, 3, 4, 6, 8"),
    (PalettizationSpec, {"n_bits": True}, "n_bits: "),
    (PalettizationSpec, {"lut_qspec": {"dtype": "int4"}}, "lut_qspec.dtype: .*int8, uint8, float8_e4m3fn"),
    (PalettizationSpec, {"lut_qspec": "int8"}, "lut_qspec: 'int8' is not a QuantizationSpec"),
    (PalettizationSpec, {"granularity": PerChannelGranularity()}, "granularity: .*per_grouped_channel"),
    (PalettizationSpec, {"cluster_dim": 0}, "cluster_dim: "),
    (PalettizationSpec, {"enable_per_channel_scale": 1}, "enable_per_channel_scale: "),
    (PalettizationSpec, {"training_strategy_spec": "soft"}, "training_strategy_spec.type: .*straight_through"),
    (PalettizationSpec, {"dtype": "int4"}, "dtype: .*n_bits"),
    (PruningSpec, {"target_sparsity": 1.5}, "target_sparsity: 1.5 .*from 0 to 1"),
    (PruningSpec, {"target_sparsity": float("nan")}, "target_sparsity: "),
    (PruningSpec, {"pruning_scheme": {"type": "channel"}}, "pruning_scheme.type: .*channel_structured"),
]


@pytest.mark.parametrize(("cls", "given", "message"), WRONG)
def test_a_wrong_value_is_refused_with_what_would_be_right(cls, given, message):
    with pytest.raises(SpecError, match=message) as caught:
        cls(**given)
    assert isinstance(caught.value, GraphpressError)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_argument_is_also_a_type_error():
    with pytest.raises(TypeError):
        QuantizationSpec(dtpye="int8")
    with pytest.raises(ArgumentError, match="at most 0 positional"):
        PerTensorGranularity(3)


def test_keys_of_plain_data_must_be_names():
    with pytest.raises(ArgumentError, match="keys are names"):
        QuantizationSpec.from_dict({0: "int8"})


SPECS = st.one_of(
    st.builds(
        QuantizationSpec,
        dtype=st.sampled_from(INTEGERS),
        qscheme=st.sampled_from(list(QuantizationScheme)),
        qformulation=st.sampled_from(list(QuantizationFormulation)),
        granularity=st.sampled_from(
            [
                PerTensorGranularity(),
                PerChannelGranularity(axis=1),
                PerBlockGranularity(block_size=32),
                PerBlockGranularity(block_size=(4, -1)),
            ]
        ),
        qparam_calculator_cls=st.sampled_from(QPARAM_CALCULATORS.keys),
        float_range=st.sampled_from([(None, None), (0, 6), (-1.5, None)]),
    ),
    st.builds(
        PalettizationSpec,
        n_bits=st.sampled_from([1, 2, 3, 4, 6, 8]),
        lut_qspec=st.sampled_from([None, QuantizationSpec(), QuantizationSpec(dtype="float8_e5m2")]),
        granularity=st.sampled_from([PerTensorGranularity(), PerGroupedChannelGranularity(axis=0, group_size=4)]),
        cluster_dim=st.integers(1, 4),
        enable_per_channel_scale=st.booleans(),
        training_strategy_spec=st.sampled_from(["default", StraightThroughTrainingSpec()]),
    ),
    st.builds(
        PruningSpec,
        target_sparsity=st.floats(0, 1),
        pruning_scheme=st.sampled_from(["unstructured", ChannelStructured(axis=1)]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(SPECS)
def test_a_spec_comes_back_from_its_plain_form_a_copy_and_a_pickle(spec):
    assert_plain(spec.to_dict())
    assert type(spec).from_dict(spec.to_dict()) == spec
    assert copy.deepcopy(spec) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(type(spec).from_dict(spec.to_dict())) == hash(spec)


def assert_plain(value):
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in (str, int)
            assert_plain(item)
    elif isinstance(value, list):
        for item in value:
            assert_plain(item)
    else:
        assert type(value) in (str, int, float, bool, type(None))


def test_the_defaults_are_int8_static_per_channel_weights_and_moving_average_activations():
    assert default_weight_quantization_spec() == QuantizationSpec(
        granularity=PerChannelGranularity(), qparam_calculator_cls="static"
    )
    assert default_activation_quantization_spec() == QuantizationSpec(qparam_calculator_cls="moving_average")


def test_a_registered_class_is_kept_by_its_key_and_an_unregistered_one_cannot_be_written_down():
    @QPARAM_CALCULATORS.register("test_halving")
    class Halving: ...

    class Unregistered: ...

    try:
        spec = QuantizationSpec(qparam_calculator_cls=Halving)
        assert spec == QuantizationSpec(qparam_calculator_cls="test_halving")
        assert QPARAM_CALCULATORS.resolve(spec.qparam_calculator_cls) is Halving
        assert QuantizationSpec.from_dict(spec.to_dict()) == spec
        with pytest.raises(SpecError, match=r"Unregistered has no key.*register"):
            QuantizationSpec(qparam_calculator_cls=Unregistered).to_dict()
    finally:
        QPARAM_CALCULATORS.unregister("test_halving")


def test_two_classes_cannot_have_one_key():
    registry = ComponentRegistry("role")
    registry.register("key")(int)
    registry.register("key")(int)
    with pytest.raises(SpecError, match=r"'key' is taken by builtins\.int"):
        registry.register("key")(str)


def test_errors_survive_a_process_boundary():
    with pytest.raises(SpecError) as caught:
        PalettizationSpec(lut_qspec={"dtype": "int4"})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_sparsity_starts_at_once_or_grows_along_the_polynomial():
    constant = ConstantSparsitySchedule(begin_step=3)
    assert [constant.compute_sparsity(step, 0.8) for step in (0, 2, 3, 9)] == [0, 0, 0.8, 0.8]
    growing = PolynomialDecaySchedule(begin_step=2, total_iters=4, power=1.0, initial_sparsity=0.2)
    assert [growing.compute_sparsity(step, 0.8) for step in (1, 2, 3, 5, 9)] == pytest.approx([0.2, 0.2, 0.4, 0.8, 0.8])


# What coreai-opt 0.4.0 gives for these arguments, for a target of 0.75.
PEER_SPARSITIES = [
    ({"total_iters": 4}, [0.0, 0.5278, 0.7222, 0.75, 0.75]),
    ({"total_iters": 4, "update_frequency": 2}, [0.0, 0.0, 0.75, 0.75]),
    ({"total_iters": 4, "begin_step": 2, "initial_sparsity": 0.1}, [0.1, 0.1, 0.1, 0.5574, 0.7259, 0.75]),
    ({"total_iters": 1}, [0.0, 0.75, 0.75]),
    ({"total_iters": 1, "update_frequency": 3}, [0.0, 0.75, 0.75]),
    ({"total_iters": 1, "begin_step": 2, "initial_sparsity": 0.2}, [0.2, 0.2, 0.2, 0.75]),
    ({"total_iters": 5, "update_frequency": 2, "begin_step": 1}, [0.0, 0.0, 0.0, 0.6562, 0.6562, 0.75]),
    ({"total_iters": 7, "update_frequency": 3}, [0.0, 0.0, 0.0, 0.6562, 0.6562, 0.6562, 0.75]),
    ({"total_iters": 4, "power": 0.5}, [0.0, 0.1376, 0.317, 0.75]),
]


@pytest.mark.parametrize(("arguments", "expected"), PEER_SPARSITIES)
def test_sparsity_grows_as_in_the_peer(arguments, expected):
    schedule = PolynomialDecaySchedule(**arguments)
    found = [schedule.compute_sparsity(step, 0.75) for step in range(len(expected))]
    assert found == pytest.approx(expected, abs=5e-5)


def test_a_polynomial_without_a_power_is_refused():
    with pytest.raises(SpecError, match="power"):
        PolynomialDecaySchedule(total_iters=4, power=0)
