"""Calculators of quantization parameters: what they remember, what they optimize, and how users make their own."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torchao.prototype.mx_formats.mx_tensor import to_mx

from graphpress.ir import reference, scales
from graphpress.ir.dtypes import DType
from graphpress.passes.config import FAKE_QUANTIZERS, QPARAM_CALCULATORS, RANGE_CALCULATORS, SpecError
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.fake_quantize import calculator_for
from graphpress.quantization.spec import (
    FakeQuantize,
    FakeQuantizeImplBase,
    PerBlockGranularity,
    QParamsCalculatorBase,
    RangeCalculatorBase,
    RunningRangeMixin,
    StatefulQParamsCalculatorBase,
    StatelessQParamsCalculatorBase,
)
from graphpress.quantization.squared_error import fake_quantized, in_blocks

SCHEMES = ["symmetric", "asymmetric"]


def data(kind="normal", *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = shape or (32, 640)
    values = torch.randn(shape, generator=generator)
    if kind == "heavy":
        values = values / torch.rand(shape, generator=generator).clamp(0.02)
    return values.relu() if kind == "positive" else values


def made(key, *, is_state=False, block=(), **spec):
    return calculator_for(QuantizationSpec(qparam_calculator_cls=key, **spec), block, is_state=is_state)


def observed(key, batches, **options):
    calculator = made(key, **options)
    for batch in batches:
        calculator.observe(batch)
    return calculator


def error(values, qparams, spec):
    return float((fake_quantized(values, qparams, spec) - values).double().square().sum())


# what calculators remember


@pytest.mark.parametrize("key", ["moving_average", "global_minmax", "static"])
def test_the_values_of_one_batch_count_as_one_of_their_union(key):
    generator = torch.Generator().manual_seed(0)
    shared, alone = made(key), made(key)
    for _ in range(5):
        wide, narrow = (torch.randn(64, generator=generator) * size for size in (3.0, 0.1))
        shared.observe(narrow)
        shared.observe_more(wide)
        shared.observe_more(narrow)
        alone.observe(torch.cat([narrow, wide]))
    assert shared.observations == alone.observations == 5
    assert torch.equal(shared.running_min, alone.running_min)
    assert torch.equal(shared.running_max, alone.running_max)


def test_a_mask_among_the_values_of_a_batch_is_seen_once():
    shared = made("moving_average")
    mask = torch.tensor([0.0, torch.finfo(torch.float32).min])
    for _ in range(3):
        shared.observe(torch.ones(2))
        shared.observe_more(mask)
        shared.observe_more(mask)
    assert (shared.observations, shared.edges) == (3, 3)
    assert shared.is_mask


def test_a_rule_of_a_user_sees_the_union_of_a_batch():
    class Widest(RunningRangeMixin):
        def update_running_range(self, low, high):
            return torch.minimum(self.running_min, low), torch.maximum(self.running_max, high)

    shared = Widest(QuantizationSpec())
    for wide in (2.0, 1.0):
        shared.observe(torch.tensor([-1.0, 0.5]))
        shared.observe_more(torch.tensor([-0.5, wide]))
    assert (float(shared.running_min), float(shared.running_max)) == (-1.0, 2.0)


def test_the_averaging_constant_of_the_moving_average_can_be_set():
    batches = [torch.tensor([-1.0, 1.0]), torch.tensor([-3.0, 5.0])]
    slow = observed("moving_average{min_values=1}", batches)
    fast = observed("moving_average{averaging_constant=1.0, min_values=1}", batches)
    assert fast.running_max == 5
    assert slow.running_max == pytest.approx(1 + 4 * 0.01 / (1 - 0.99**2))


def averaged(batches, min_values, constant=0.01):
    """The ends of the moving average, from its definition."""
    whole, opened = [], torch.empty(0)
    for batch in batches:
        opened = torch.cat([opened, batch])
        if opened.numel() >= min_values:
            whole, opened = [*whole, opened], torch.empty(0)
    if not whole:
        return float(opened.min()), float(opened.max())
    weights = [constant * (1 - constant) ** (len(whole) - 1 - index) for index in range(len(whole))]
    ends = [
        sum(weight * float(end(each)) for weight, each in zip(weights, whole, strict=True)) / sum(weights)
        for end in (torch.min, torch.max)
    ]
    return tuple(ends)


@pytest.mark.parametrize("is_saved", [False, True])
@pytest.mark.parametrize("min_values", [1, 50, 300, 10_000])
def test_small_batches_are_joined_before_they_are_averaged(min_values, is_saved):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 120, (40,), generator=generator).tolist()
    batches = [torch.randn(size, generator=generator) for size in sizes]
    calculator = made(f"moving_average{{min_values={min_values}}}")
    for batch in batches:
        calculator.observe(batch[: len(batch) // 2 + 1])
        calculator.observe_more(batch)  # a second point of the same batch, whose values are not counted again
        if is_saved:
            state, calculator = calculator.state_dict(), made(f"moving_average{{min_values={min_values}}}")
            calculator.load_state_dict(state)
    expected = averaged(batches, min_values)
    assert (float(calculator.running_min), float(calculator.running_max)) == pytest.approx(expected, rel=1e-5)


def test_the_range_of_few_values_does_not_depend_on_the_size_of_batches():
    values = torch.randn(6_000, generator=torch.Generator().manual_seed(0))
    ranges = {
        size: (calculator.running_min, calculator.running_max)
        for size in (10, 600, 6_000)
        for calculator in [observed("moving_average", values.split(size))]
    }
    assert ranges[10] == ranges[600] == ranges[6_000]


def test_static_is_the_tensor_itself_for_weights_and_the_last_one_seen_for_activations():
    weight, activation = made("static", is_state=True), observed("static", [torch.full((3,), 9.0), torch.ones(3)])
    assert weight.qparams() is None
    assert weight.qparams(torch.tensor([127.5]))[0] == 1
    assert activation.running_max == 1


@pytest.mark.parametrize("key", ["histogram", "percentile"])
@pytest.mark.parametrize("block", [(), (1, -1)])
def test_a_histogram_does_not_depend_on_order_or_batches(key, block):
    values = data("heavy", 8, 400)
    whole = observed(key, [values], block=block)
    cut = observed(key, values.flip(1).split(50, dim=1), block=block)
    for name, tensor in whole.state_dict().items():
        assert name == "observations" or torch.equal(tensor, cut.state_dict()[name])
    assert torch.equal(whole.qparams()[0], cut.qparams()[0])
    assert int(whole.counts.sum()) == values.numel()


@pytest.mark.parametrize("key", ["moving_average", "global_minmax", "static", "histogram", "percentile"])
def test_a_state_survives_state_dict_copy_and_pickle(key):
    first = observed(key, data().split(8))
    second = made(key)
    second.load_state_dict(first.state_dict())
    for again in (second, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert torch.equal(again.qparams()[0], first.qparams()[0])


# what they optimize


@pytest.mark.parametrize("kind", ["normal", "heavy", "positive"])
@pytest.mark.parametrize("dtype", ["uint2", "int4", "uint8", "float8_e4m3fn"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("formulation", ["zp", "minval"])
def test_a_histogram_finds_the_range_that_knowing_every_value_finds(kind, dtype, scheme, formulation):
    if dtype.startswith("float") and (scheme, formulation) != ("symmetric", "zp"):
        pytest.skip("floats are symmetric")
    values, how = data(kind), {"dtype": dtype, "qscheme": scheme, "qformulation": formulation}
    histogram = observed("histogram", values.split(4), **how)
    widest = observed("global_minmax", values.split(4), **how)
    best = error(values, made("mse", is_state=True, **how).qparams(values), histogram.spec)
    assert error(values, histogram.qparams(), histogram.spec) <= (1.04 if dtype.startswith("float") else 1.02) * best
    assert best <= error(values, widest.qparams(), histogram.spec)


@pytest.mark.parametrize("scheme", [*SCHEMES, "symmetric_with_clipping"])
@pytest.mark.parametrize("dtype", ["int2", "uint4", "int8"])
@pytest.mark.parametrize("block", [(1, -1), (4, 80), ()])
def test_the_squared_error_is_that_of_the_best_of_many_ranges(dtype, scheme, block):
    values = data("heavy", 8, 160)
    calculator = made("mse", is_state=True, block=block, dtype=dtype, qscheme=scheme)
    found = in_blocks(fake_quantized(values, calculator.qparams(values), calculator.spec) - values, block)
    low, high = reference.block_range(values, block)
    best = torch.full((len(found),), torch.inf, dtype=torch.float64)
    for ratio in np.linspace(0.005, 1.5, 500):
        again = fake_quantized(values, calculator.from_range(low * ratio, high * ratio), calculator.spec) - values
        best = torch.minimum(best, in_blocks(again, block).double().square().sum(1))
    tried = calculator.from_range(low, high)
    assert found.double().square().sum() <= 1.02 * best.sum()
    assert found.double().square().sum() <= (fake_quantized(values, tried, calculator.spec) - values).square().sum()


def test_an_outlier_costs_a_histogram_nothing():
    values = data()
    values[0, 0] = 1e5
    spec = {"dtype": "int8"}
    without = observed("histogram", [values[1:]], **spec)
    assert observed("histogram", [values[:1]], **spec).qparams()[0] > 10
    with_outlier = observed("percentile{percentile=99.9}", [values], **spec)
    assert with_outlier.qparams()[0] < 2 * without.qparams()[0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("percentile", [90, 99.9, 100])
def test_a_percentile_leaves_out_the_outermost_values(scheme, percentile):
    values, key = data("heavy"), f"percentile{{percentile={percentile}}}"
    of_bins = observed(key, values.split(8), dtype="uint8", qscheme=scheme).qparams()
    of_values = made(key, is_state=True, dtype="uint8", qscheme=scheme).qparams(values)
    if scheme == "symmetric":
        expected = 2 * np.percentile(values.abs().numpy(), percentile)
    else:
        expected = np.subtract(*np.percentile(values.numpy(), [percentile, 100 - percentile]))
    for got, tolerance in ((of_bins, 1 / 128), (of_values, 1e-4)):
        assert float(got[0]) * 255 == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("key", ["mse", "histogram", "percentile", "moving_average"])
def test_the_number_of_threads_changes_no_bit(key):
    values, found = data("heavy", 64, 9999), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for is_state in (True, False):
                calculator = made(key, is_state=is_state, dtype="uint4", qscheme="asymmetric")
                calculator.observe(values)
                found.append(calculator.qparams(values))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found[:2], found[2:], strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


# scales of other dtypes


@pytest.mark.parametrize("dtype", [torch.float4_e2m1fn_x2, torch.float8_e4m3fn, torch.float8_e5m2])
def test_power_of_two_scales_and_codes_are_those_of_the_microscaling_formats(dtype):
    values = data("heavy", 16, 256) * torch.logspace(-12, 12, 16)[:, None]
    spec = QuantizationSpec(dtype=dtype, scale_dtype="float8_e8m0fnu", granularity=PerBlockGranularity(block_size=32))
    scale, _, _ = calculator_for(spec, (1, 32), is_state=True).qparams(values)
    expected_scale, expected = to_mx(values, dtype, 32)
    assert torch.equal(scale.to(torch.float8_e8m0fnu).view(torch.uint8), expected_scale.view(torch.uint8))
    codes = reference.quantize(values, scale, dtype=spec.element_type)
    if spec.element_type is DType.FLOAT4_E2M1FN:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    zero_sign = 0 if spec.element_type is DType.FLOAT4_E2M1FN else None
    if zero_sign is None:
        assert torch.equal(codes.float(), expected.float())
    else:
        assert torch.equal(codes, expected)


@pytest.mark.parametrize("dtype", ["int2", "int3", "int4", "uint4"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_products_with_float16_scales_are_exact(dtype, scheme):
    values = data("heavy", 64, 64)
    spec = QuantizationSpec(dtype=dtype, qscheme=scheme, scale_dtype="float16", granularity="per_channel")
    scale, zero_point, _ = calculator_for(spec, (1, -1), is_state=True).qparams(values)
    assert torch.equal(scale.half().float(), scale)
    codes = reference.quantize(values, scale, zero_point, dtype=spec.element_type).float()
    steps = codes if zero_point is None else codes - zero_point
    assert torch.equal((steps.half() * scale.half()).float(), steps * scale)
    assert scales.fits_float16(scale, spec.element_type, symmetric=scheme == "symmetric")
    assert not scales.fits_float16(scale * 2.0**-20, spec.element_type, symmetric=scheme == "symmetric")
    whole, _, _ = calculator_for(
        QuantizationSpec(dtype=dtype, qscheme=scheme, granularity="per_channel"), (1, -1), is_state=True
    ).qparams(values)
    assert ((scale >= whole) & (scale <= whole * 1.016)).all()


def linear(size=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, 8)).eval()


def weights(**spec):
    each = ModuleQuantizerConfig(
        op_input_spec=None, op_output_spec=None, op_state_spec={"weight": QuantizationSpec(**spec)}
    )
    return QuantizerConfig(global_config=each)


def test_scales_beyond_float16_stay_in_float32():
    model = linear()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    quantizer = Quantizer(model, weights(dtype="int4", granularity="per_channel", scale_dtype="float16"))
    prepared = quantizer.prepare((torch.ones(1, 64),))
    finalized = quantizer.finalize()
    scales = {name: tensor.dtype for name, tensor in finalized.state_dict().items() if "scale" in name}
    assert sorted(map(str, scales.values())) == ["torch.float16", "torch.float32"]
    assert torch.equal(finalized(torch.ones(1, 64)), prepared(torch.ones(1, 64)))


# options


def test_options_are_kept_in_order_and_defaults_left_out():
    given = QuantizationSpec(qparam_calculator_cls="percentile{ bins_per_octave = 64,percentile=99 }")
    assert given.qparam_calculator_cls == "percentile{percentile=99.0, bins_per_octave=64}"
    assert QuantizationSpec.from_dict(given.to_dict()) == given
    assert QuantizationSpec(qparam_calculator_cls="percentile{percentile=99.99}").qparam_calculator_cls == "percentile"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("percentile{percentile=20}", "'percentile' of 'percentile': 20 is not a number from 50 to 100"),
        ("percentile{percentil=99}", "no option 'percentil'; did you mean 'percentile'.*bins_per_octave"),
        ("histogram{bins_per_octave=100}", "100 is not accepted; accepted: 8, 16, 32"),
        ("moving_average{averaging_constant=0}", "0 is not a number from 1e-09 to 1"),
        ("static{bins=3}", "'static' has no option 'bins'; accepted: none"),
        ("mse{candidates=1}", "integer >= 2"),
        ("percentile{99}", "'99' in .* is no option; accepted: name=value"),
        ("percentile{percentile=99", "no closing brace"),
        ("percentil{percentile=99}", "not registered; did you mean"),
    ],
)
def test_a_wrong_option_is_refused_with_what_would_be_right(key, message):
    with pytest.raises(SpecError, match=message):
        QuantizationSpec(qparam_calculator_cls=key)


# calculators of users


@pytest.fixture
def registries():
    """Whatever a test registers is forgotten after it."""
    kept = [
        (registry, dict(registry._classes)) for registry in (FAKE_QUANTIZERS, QPARAM_CALCULATORS, RANGE_CALCULATORS)
    ]
    yield
    for registry, classes in kept:
        registry._classes = classes


def config(**spec):
    each = QuantizationSpec(**spec)
    return QuantizerConfig(
        global_config=ModuleQuantizerConfig(op_input_spec={"*": each}, op_output_spec={"*": each}, op_state_spec=None)
    )


def calibrated(settings, *batches):
    quantizer = Quantizer(linear(), settings)
    prepared = quantizer.prepare((batches[0],))
    with quantizer.calibration_mode():
        for batch in batches[1:]:
            prepared(batch)
    return quantizer, prepared


def test_a_rule_for_the_running_range_is_a_calculator(registries):
    @QParamsCalculatorBase.register("peak_decay")
    class PeakDecay(RunningRangeMixin, QParamsCalculatorBase):
        def __init__(self, spec, block_size=(), *, decay=0.5):
            super().__init__(spec, block_size)
            self.decay = decay

        def update_running_range(self, min_val, max_val):
            return (
                torch.minimum(self.running_min * self.decay, min_val),
                torch.maximum(self.running_max * self.decay, max_val),
            )

    wide, narrow = torch.full((2, 64), 12.75), torch.full((2, 64), 1.0)
    settings = config(qparam_calculator_cls="peak_decay{decay=0.9}")
    quantizer, prepared = calibrated(QuantizerConfig.from_yaml(settings.to_yaml()), wide, narrow)
    found = {q.name: q for q in prepared.modules() if isinstance(q, FakeQuantizeImplBase)}
    assert found["linear_input"].calculator.running_max == pytest.approx(0.9 * 12.75)
    assert torch.equal(quantizer.finalize()(narrow), prepared(narrow))


def test_calculators_with_and_without_a_state_of_their_own(registries):
    @QParamsCalculatorBase.register("first_only")
    class FirstOnly(StatefulQParamsCalculatorBase):
        def remember(self, data, low, high):
            if self.observations == 1:
                self.running_min, self.running_max = low.clone(), high.clone()

    @QParamsCalculatorBase.register("three_sigma")
    class ThreeSigma(StatelessQParamsCalculatorBase):
        def qparams(self, data=None):
            return None if data is None else self.from_range(-3 * data.std(), 3 * data.std())

    assert observed("first_only", [torch.ones(4), torch.full((4,), 7.0)]).running_max == 1
    values = data()
    assert made("three_sigma", is_state=True).qparams(values)[0] == pytest.approx(
        6 * float(values.std()) / 255, rel=1e-4
    )


def test_a_range_calculator_and_a_fake_quantizer_of_ones_own(registries):
    @RangeCalculatorBase.register("without_extremes")
    class WithoutExtremes(RangeCalculatorBase):
        def __call__(self, data, block_size):
            assert not block_size
            return torch.aminmax(data.float().flatten().sort().values[1:-1])

    @FakeQuantizeImplBase.register("counting")
    class Counting(FakeQuantize):
        calls = 0

        def quantize(self, data, qparams):
            Counting.calls += 1
            return super().quantize(data, qparams)

    batch = torch.linspace(-1, 1, 128).reshape(2, 64)
    _, prepared = calibrated(config(range_calculator_cls="without_extremes", fake_quantize_cls="counting"), batch)
    prepared(batch)
    assert Counting.calls == sum(isinstance(q, Counting) for q in prepared.modules()) > 0
    first = next(q for q in prepared.modules() if isinstance(q, Counting))
    assert first.calculator.running_max < 1


def test_parameters_computed_at_every_run_cannot_be_finalized():
    quantizer, prepared = calibrated(config(qparam_calculator_cls="dynamic"), data("normal", 2, 64))
    assert not torch.equal(prepared(torch.ones(2, 64)), linear()(torch.ones(2, 64)))
    with pytest.raises(ValueError, match=r"linear_input.*'dynamic'.*accepted there: 'moving_average'"):
        quantizer.finalize()
