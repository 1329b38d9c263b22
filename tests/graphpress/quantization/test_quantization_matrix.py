"""Every way to quantize a tensor: legal ones against plain formulas and the Core AI runtime, illegal ones by errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from graphpress.backends.coreai import check, convert, read
from graphpress.backends.errors import LoweringError
from graphpress.ir.dtypes import DType
from graphpress.passes.config import SpecError
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.expressions import ConstantExpression
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase

torch.set_num_threads(1)

INTEGERS = ("int2", "uint2", "int4", "uint4", "int8", "uint8")
ALL_INTEGERS = (*INTEGERS, "int3", "uint3", "int6", "uint6")
FLOATS = ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn")
SCHEMES = ("symmetric", "asymmetric", "symmetric_with_clipping")
FORMULATIONS = ("zp", "minval")
SHAPE = (8, 16, 2, 2)
GRANULARITIES: dict[str, tuple[dict | str, tuple[int, ...]]] = {
    "per tensor": ("per_tensor", SHAPE),
    "per channel": ("per_channel", (1, 16, 2, 2)),
    "per channel of axis 1": ({"type": "per_channel", "axis": 1}, (8, 1, 2, 2)),
    "per block": ({"type": "per_block", "block_size": 4}, (1, 4, 2, 2)),
    "per block of axis 0": ({"type": "per_block", "axis": 0, "block_size": 2}, (2, 1, 2, 2)),
    "per block of several axes": ({"type": "per_block", "block_size": [4, 8, 1, -1]}, (4, 8, 1, 2)),
}


def legal_weights(integers=INTEGERS):
    """Every legal spec of a weight, by a name."""
    for granularity, (plain, block) in GRANULARITIES.items():
        for dtype, scheme, formulation in itertools.product(integers, SCHEMES, FORMULATIONS):
            how = {"dtype": dtype, "qscheme": scheme, "qformulation": formulation, "granularity": plain}
            yield f"{dtype}, {scheme}, {formulation}, {granularity}", how, block
            if DType.of(dtype).bits <= 4 and formulation == "zp":
                how = how | {"scale_dtype": "float16"}
                yield f"{dtype}, {scheme}, {granularity}, float16 scales", how, block
        for dtype in FLOATS:
            if dtype != "float4_e2m1fn":
                yield f"{dtype}, {granularity}", {"dtype": dtype, "granularity": plain}, block
            how = {"dtype": dtype, "granularity": plain, "scale_dtype": "float8_e8m0fnu"}
            yield f"{dtype}, {granularity}, powers of two", how, block


WEIGHTS = list(legal_weights())
# Each dtype with each scheme, formulation and granularity somewhere, not all of them together.
SOME_WEIGHTS = WEIGHTS[::7]


class Side(nn.Module):
    """Convolutions side by side, all of one input."""

    def __init__(self, count):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(SHAPE[1], SHAPE[0], SHAPE[2:]) for _ in range(count))

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def prepared_with(configs):
    """A quantizer and a prepared model with one convolution for each module config."""
    named = {f"layers.{at}": config for at, config in enumerate(configs)}
    quantizer = Quantizer(Side(len(named)).eval(), QuantizerConfig(global_config=None, module_name_configs=named))
    return quantizer, quantizer.prepare((INPUT,))


INPUT = torch.randn(2, SHAPE[1], 5, 5, generator=torch.Generator().manual_seed(1))


def weight_only(how):
    return ModuleQuantizerConfig(
        op_input_spec=None, op_output_spec=None, op_state_spec={"weight": QuantizationSpec(**how)}
    )


# the plain formulas, once more, block by block


def plain(values, how):
    """A block as it is after quantization, in float64 but for the rounding of the scale."""
    dtype = DType.of(how["dtype"])
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    magnitude = max(-low, high)
    if dtype.is_floating:
        scale = magnitude / dtype.maximum
        if how.get("scale_dtype"):
            scale = 2.0 ** (np.floor(np.log2(magnitude)) - np.floor(np.log2(dtype.maximum)))
        scale = _up(scale, 16)
        clipped = np.clip(values / scale, -dtype.maximum, dtype.maximum)
        return nearest_float(clipped, dtype) * scale, scale
    scheme, formulation = how.get("qscheme", "symmetric"), how.get("qformulation", "zp")
    least, most = dtype.minimum + (scheme == "symmetric_with_clipping"), dtype.maximum
    symmetric = scheme != "asymmetric"
    bits = 11 - (dtype.bits - symmetric) if how.get("scale_dtype") else 16
    if symmetric:
        low, high = -magnitude, magnitude
    scale = _up((high - low) / (most - least), bits)
    if formulation == "minval":
        return np.clip(np.rint((values - low) / scale), 0, most - least) * scale + low, scale
    zero = least - np.rint(low / scale)
    if symmetric:
        zero = 0 if dtype.is_signed_integer else (least + most + 1) // 2
    codes = np.clip(np.rint(values / scale) + zero, least, most)
    return (codes - zero) * scale, scale


def _up(value, bits):
    mantissa, exponent = np.frexp(np.float32(value).astype(np.float64))
    return np.ldexp(np.ceil(mantissa * 2**bits) / 2**bits, exponent)


def nearest_float(values, dtype):
    """The nearest value of a small float, ties to even, from the list of them all."""
    if dtype is DType.FLOAT4_E2M1FN:
        positive = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    else:
        codes = torch.arange(128, dtype=torch.uint8).view(dtype.torch_dtype).double()
        positive = codes[codes.isfinite()].numpy()
    middles = (positive[1:] + positive[:-1]) / 2
    magnitude = abs(values)
    below = np.searchsorted(middles, magnitude, side="left")
    tie = (below < len(middles)) & (magnitude == middles[np.minimum(below, len(middles) - 1)])
    return np.sign(values) * positive[np.where(tie & (below % 2 == 1), below + 1, below)]


def by_block(weight, block):
    """The slices of every block."""
    starts = [range(0, extent, size) for extent, size in zip(weight.shape, block, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(slice(at, at + size) for at, size in zip(corner, block, strict=True))


def assert_weights_follow_the_formulas(cases):
    quantizer, prepared = prepared_with([weight_only(how) for _, how, _ in cases])
    found = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: found.append(output))
        for module in prepared.modules()
        if isinstance(module, ConstantExpression)
    ]
    with torch.no_grad():
        outputs = prepared(INPUT)
    for hook in hooks:
        hook.remove()
    assert len(found) == len(cases)
    for at, (name, how, block) in enumerate(cases):
        weight = prepared.get_parameter(f"layers.{at}.weight").detach().double().numpy()
        got = found[at].double().numpy()
        for part in by_block(weight, block):
            expected, scale = plain(weight[part], how)
            assert abs(got[part] - expected).max() <= 1e-5 * scale, name
    return quantizer, outputs


def test_weights_follow_the_plain_formulas_and_are_finalized_bit_for_bit():
    quantizer, outputs = assert_weights_follow_the_formulas(SOME_WEIGHTS)
    for (name, _, _), ours, theirs in zip(SOME_WEIGHTS, outputs, quantizer.finalize()(INPUT), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.slow
def test_every_weight_follows_the_plain_formulas():
    for first in range(0, len(WEIGHTS), 50):
        assert_weights_follow_the_formulas(WEIGHTS[first : first + 50])


def test_a_wrong_formula_would_be_seen():
    _, how, _ = WEIGHTS[0]
    values = np.random.default_rng(0).normal(size=64)
    right, scale = plain(values, how)
    wrong, _ = plain(values, how | {"qscheme": "asymmetric"})
    assert abs(right - wrong).max() > 0.01 * scale


# Core AI


def assert_runs_in_core_ai(configs, path, calibrate=False):
    quantizer, prepared = prepared_with(configs)
    if calibrate:
        with quantizer.calibration_mode():
            prepared(INPUT)
            prepared(INPUT / 2)
    finalized = quantizer.finalize()
    convert(finalized, path, (INPUT,))
    report = check(path, finalized, (INPUT,))
    assert report.ok, report
    return prepared, finalized, read(path)


def test_weights_are_stored_in_their_own_types_and_run_in_core_ai(tmp_path):
    cases = SOME_WEIGHTS
    _, _, info = assert_runs_in_core_ai([weight_only(how) for _, how, _ in cases], tmp_path / "m.aimodel")
    stored = [c.dtype.long_name for c in info.constants if "blockwise_shift_scale.data" in c.used_by]
    assert sorted(stored) == sorted(how["dtype"] for _, how, _ in cases)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(WEIGHTS), 60))
def test_every_weight_runs_in_core_ai(first, tmp_path):
    cases = WEIGHTS[first : first + 60]
    assert_runs_in_core_ai([weight_only(how) for _, how, _ in cases], tmp_path / "m.aimodel")


def legal_activations():
    channel = {"type": "per_channel", "axis": 1}
    for dtype, scheme, formulation in itertools.product(("int8", "uint8", "int4", "uint4"), SCHEMES, FORMULATIONS):
        for granularity in ("per_tensor", channel):
            yield {"dtype": dtype, "qscheme": scheme, "qformulation": formulation, "granularity": granularity}
    for dtype in ("float8_e4m3fn", "float8_e5m2"):
        for granularity in ("per_tensor", channel):
            yield {"dtype": dtype, "granularity": granularity}


ACTIVATIONS = list(legal_activations())


def activations_only(how):
    each = {"*": QuantizationSpec(**how)}
    return ModuleQuantizerConfig(op_input_spec=each, op_output_spec=each, op_state_spec=None)


def assert_activations_run(cases, path):
    prepared, finalized, _ = assert_runs_in_core_ai([activations_only(how) for how in cases], path, calibrate=True)
    specs = {q.name: q for q in prepared.modules() if isinstance(q, FakeQuantizeImplBase)}
    assert len(specs) > len(cases)
    for at, (ours, theirs) in enumerate(zip(prepared(INPUT), finalized(INPUT), strict=True)):
        output = specs["conv2d_output" if not at else f"conv2d_{at}_output"]
        assert (ours - theirs).abs().max() <= 1.001 * output.qparams()[0].max(), cases[at]


def test_activations_run_in_core_ai(tmp_path):
    assert_activations_run(ACTIVATIONS[::5], tmp_path / "m.aimodel")


@pytest.mark.slow
def test_every_activation_runs_in_core_ai(tmp_path):
    assert_activations_run(ACTIVATIONS, tmp_path / "m.aimodel")


@pytest.mark.parametrize("preset", ["mxfp4", "w4_per_block", "fp8"])
def test_both_modes_store_the_same_scales(preset):
    options = {"scale_dtype": "float16"} if preset == "w4_per_block" else {}
    stored = []
    for mode in ("graph", "eager"):
        torch.manual_seed(0)
        config = getattr(QuantizerConfig.presets, preset)(**options).set_execution_mode(mode)
        quantizer = Quantizer(nn.Sequential(nn.Linear(64, 8)).eval(), config)
        prepared = quantizer.prepare((torch.ones(2, 64),))
        with quantizer.calibration_mode():
            prepared(torch.ones(2, 64))
        finalized = quantizer.finalize()
        assert torch.equal(finalized(torch.ones(2, 64)), prepared(torch.ones(2, 64)))
        tensors = [tensor for tensor in finalized.state_dict().values() if tensor.ndim == 2]
        stored.append(sorted((str(tensor.dtype), tuple(tensor.shape)) for tensor in tensors))
    assert stored[0] == stored[1]
    scale = {"mxfp4": "torch.float8_e8m0fnu", "w4_per_block": "torch.float16", "fp8": "torch.float32"}[preset]
    assert (scale, (8, 1 if preset == "fp8" else 2)) in stored[0]


# what is illegal


def illegal():
    for dtype, scheme, formulation in itertools.product(FLOATS, SCHEMES, FORMULATIONS):
        how = {"dtype": dtype, "qscheme": scheme, "qformulation": formulation}
        if scheme != "symmetric":
            yield how, r"qscheme: .* takes 'symmetric'"
        elif formulation != "zp":
            yield how, r"qformulation: .* takes 'zp'"
    for dtype in ALL_INTEGERS:
        if dtype != "int8":
            yield (
                {"dtype": dtype, "scale_dtype": "float8_e8m0fnu"},
                r"scale_dtype: .*float8, float4 and int8 only.*accepted: None",
            )
    for how in ({"qscheme": "asymmetric"}, {"qformulation": "minval"}):
        yield {"dtype": "int8", "scale_dtype": "float8_e8m0fnu", **how}, r"scale_dtype: .*symmetric qscheme and 'zp'"
    for dtype in ("int6", "uint6", "int8", "uint8", *FLOATS):
        yield (
            {"dtype": dtype, "scale_dtype": "float16"},
            r"scale_dtype: .*up to 4 bits.*accepted: (None|float8_e8m0fnu)",
        )
    yield {"dtype": "int4", "scale_dtype": "float16", "qformulation": "minval"}, r"scale_dtype: .*goes with 'zp'"
    yield {"dtype": "int4", "scale_dtype": "bfloat16"}, r"scale_dtype: .*accepted: None, float8_e8m0fnu.*float16"
    for dtype in ("int1", "uint1", "int16", "float32", "float16", "bfloat16", "bool", "float8_e8m0fnu"):
        yield {"dtype": dtype}, r"dtype: .*accepted: int8, .*float4_e2m1fn"


@pytest.mark.parametrize(("how", "message"), illegal(), ids=str)
def test_an_illegal_spec_is_refused_with_the_legal_ones(how, message):
    with pytest.raises(SpecError, match=message):
        QuantizationSpec(**how)


@pytest.mark.parametrize("dtype", ["int3", "uint3", "int6", "uint6"])
def test_weights_that_core_ai_cannot_store_are_refused_with_those_it_can(dtype):
    quantizer, _ = prepared_with([weight_only({"dtype": dtype})])
    with pytest.raises(LoweringError, match=rf"no weights of {dtype}; accepted: .*float8_e4m3fn.*int4.*uint8"):
        quantizer.finalize()


@pytest.mark.parametrize("dtype", ["int2", "uint2", "int3", "uint3", "int6", "uint6", "float4_e2m1fn"])
def test_activations_that_core_ai_cannot_store_are_refused_with_those_it_can(dtype):
    quantizer, prepared = prepared_with([activations_only({"dtype": dtype})])
    assert prepared(INPUT)[0].isfinite().all()
    with pytest.raises(LoweringError, match=rf"no activations of {dtype}; accepted: .*int4.*uint8"):
        quantizer.finalize()


def test_activations_in_blocks_are_refused_with_what_there_is():
    blocks = {"type": "per_block", "axis": 1, "block_size": 4}
    quantizer, _ = prepared_with([activations_only({"dtype": "int8", "granularity": blocks})])
    with pytest.raises(LoweringError, match="per tensor or per channel, not in blocks"):
        quantizer.finalize()


def test_float4_of_an_odd_last_axis_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, x):
            return self.linear(x)

    each = weight_only({"dtype": "float4_e2m1fn", "granularity": "per_channel"})
    quantizer = Quantizer(Odd().eval(), QuantizerConfig(global_config=each))
    quantizer.prepare((torch.ones(1, 5),))
    with pytest.raises(LoweringError, match="in pairs along the last axis, which has an odd size"):
        quantizer.finalize()


# default axes

LAYERS = {
    "conv1d": (lambda: nn.Conv1d(8, 4, 3), (1, 8, 9), (4, 1, 1), (4, 2, 1)),
    "conv2d": (lambda: nn.Conv2d(8, 4, 3), (1, 8, 9, 9), (4, 1, 1, 1), (4, 2, 1, 1)),
    "conv3d": (lambda: nn.Conv3d(8, 4, 3), (1, 8, 5, 5, 5), (4, 1, 1, 1, 1), (4, 2, 1, 1, 1)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(8, 4, 3), (1, 8, 9), (1, 4, 1), (2, 4, 1)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(8, 4, 3), (1, 8, 9, 9), (1, 4, 1, 1), (2, 4, 1, 1)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(8, 4, 3), (1, 8, 5, 5, 5), (1, 4, 1, 1, 1), (2, 4, 1, 1, 1)),
    "conv2d, groups": (lambda: nn.Conv2d(16, 4, 3, groups=2), (1, 16, 9, 9), (4, 1, 1, 1), (4, 2, 1, 1)),
    "conv_transpose2d, groups": (
        lambda: nn.ConvTranspose2d(8, 8, 3, groups=2),
        (1, 8, 9, 9),
        (1, 4, 1, 1),
        (2, 4, 1, 1),
    ),
    "linear": (lambda: nn.Linear(8, 4), (1, 8), (4, 1), (4, 2)),
    "embedding": (lambda: nn.Embedding(4, 8), None, (4, 1), (4, 2)),
}


@pytest.mark.parametrize("mode", ["graph", "eager"])
@pytest.mark.parametrize("name", LAYERS)
def test_channels_and_blocks_lie_along_the_documented_axes(name, mode):
    build, shape, per_channel, per_block = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(build()).eval()
    x = torch.tensor([0, 3]) if shape is None else torch.ones(shape)
    for granularity, expected in (("per_channel", per_channel), ({"type": "per_block", "block_size": 4}, per_block)):
        config = QuantizerConfig(global_config=weight_only({"granularity": granularity})).set_execution_mode(mode)
        quantizer = Quantizer(model, config)
        quantizer.prepare((x,))
        scales = [tensor for key, tensor in quantizer.finalize().state_dict().items() if "scale" in key]
        assert [tuple(scale.shape) for scale in scales] == [expected]
        weight = model[0].weight
        block = tuple(extent // count for extent, count in zip(weight.shape, expected, strict=True))
        of_blocks = [
            plain(weight[part].detach().double().numpy(), {"dtype": "int8"})[1] for part in by_block(weight, block)
        ]
        assert scales[0].flatten().tolist() == of_blocks
