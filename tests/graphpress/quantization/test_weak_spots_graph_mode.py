"""Where other quantizers of graphs are weak, ours is not: one test for each spot."""

from __future__ import annotations

import io

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from graphpress import ExportBackend
from graphpress.ir import from_module
from graphpress.ir.errors import GraphpressError
from graphpress.passes.config import BlockSizeError, SpecError, UnmatchedConfigError, default_weight_quantization_spec
from graphpress.quantization import (
    ExecutionMode,
    ModuleQuantizerConfig,
    QuantizationSpec,
    Quantizer,
    QuantizerConfig,
    WholeWeightsWarning,
)
from graphpress.quantization.config import OpQuantizerConfig
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.quantizer import UncalibratedWarning

torch.set_num_threads(1)


def image(seed=0, shape=(2, 3, 8, 8)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomized(model):
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and tensor.is_floating_point():
                values = torch.rand(tensor.shape, generator=generator) + 0.5
                tensor.data.copy_(values if name in ("weight", "running_var") else values - 1)
    return model.eval()


def calibrated(model, *batches, config=None):
    """The quantizer and its prepared model, which saw every batch."""
    quantizer = Quantizer(model.eval(), config)
    prepared = quantizer.prepare((batches[0],))
    with quantizer.calibration_mode():
        for batch in (*batches, *batches[:1]):
            prepared(batch)
    return quantizer, prepared


def quantizers(prepared):
    return {q.name: q for q in prepared.modules() if isinstance(q, FakeQuantizeImplBase)}


def weights(prepared):
    return [name for name, quantizer in quantizers(prepared).items() if quantizer.is_state]


def assert_close(model, x, *, weights_quantized, tolerance=0.05, config=None, exact=True):
    """Quantized as many weights as said, near the float model, finalized as prepared. Returns the finalized ops."""
    quantizer, prepared = calibrated(model, x, config=config)
    finalized = quantizer.finalize()
    assert len(weights(prepared)) == weights_quantized
    expected = model(x)
    assert (prepared(x) - expected).norm() < tolerance * expected.norm()
    if exact:
        assert torch.equal(finalized(x), prepared(x))
    return [node.op.short_name for node in from_module(finalized, (x,)).nodes]


class Call(nn.Module):
    """A convolution and a function of it."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x):
        return self.function(self.conv(x))


# layers and their activations

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "softplus": nn.Softplus,
    "mish": nn.Mish,
    "selu": nn.SELU,
    "celu": nn.CELU,
}
IN_PLACE = [
    "relu", "relu6", "leaky_relu", "elu", "silu", "hardtanh", "hardswish", "hardsigmoid", "mish", "selu", "celu"
]  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_fused_into_the_layer_before_it(name):
    _, prepared = calibrated(Call(ACTIVATIONS[name]()), image())
    assert len(quantizers(prepared)) == 3, "input, weight, and what leaves the activation"


@pytest.mark.parametrize("name", IN_PLACE)
def test_an_in_place_activation_is_the_same_as_the_other(name):
    both = [calibrated(Call(ACTIVATIONS[name](inplace=inplace)), image())[1] for inplace in (True, False)]
    assert weights(both[0]) == weights(both[1]) == ["conv2d_weight"]
    assert torch.equal(both[0](image()), both[1](image()))


@pytest.mark.parametrize(
    "function",
    [
        lambda t: t * torch.sigmoid(t),
        lambda t: torch.sigmoid(t).mul(t),
        lambda t: t.clamp(0, 3),
        lambda t: t.clamp(min=0),
    ],
    ids=["x * sigmoid(x)", "sigmoid(x) * x", "clamp", "clamp from below"],
)
def test_spelled_out_activations_fuse_too(function):
    _, prepared = calibrated(Call(function), image())
    assert len(quantizers(prepared)) == 3


ALSO_QUANTIZED = {
    "softmax": lambda t: t.softmax(1),
    "bmm": lambda t: torch.bmm(t.flatten(2), t.flatten(2).transpose(1, 2)),
    "einsum": lambda t: torch.einsum("bchw,bdhw->bcd", t, t),
    "scaled_dot_product_attention": lambda t: F.scaled_dot_product_attention(t, t.flip(1), t.flip(2)),
    "sub": lambda t: t - t.flip(1),
    "tanh": lambda t: torch.tanh(t.flip(1)),
}


@pytest.mark.parametrize("name", ALSO_QUANTIZED)
def test_these_ops_have_a_quantizer_at_their_result(name):
    _, prepared = calibrated(Call(ALSO_QUANTIZED[name]), image())
    assert any(found.startswith(name) and found.endswith("_output") for found in quantizers(prepared))


COMPUTED_IN_FLOATS = {
    "softmax": lambda t: t.flip(1).softmax(1),
    "layer_norm": lambda t: F.layer_norm(t, t.shape[-1:]),
    "group_norm": lambda t: F.group_norm(t, 2),
    "div": lambda t: t / (t.abs() + 1),
}


@pytest.mark.parametrize("name", COMPUTED_IN_FLOATS)
def test_a_result_in_floats_is_quantized_for_a_sum_and_not_for_the_output_of_the_model(name):
    function = COMPUTED_IN_FLOATS[name]
    _, returned = calibrated(Call(function), image())
    _, added = calibrated(Call(lambda t: function(t) + t), image())
    assert f"{name}_output" not in quantizers(returned)
    assert f"{name}_output" in quantizers(added)


MOVES_VALUES = {
    "flatten": lambda t: t.flatten(1),
    "amax": lambda t: t.amax(-1),
    "max_pool": lambda t: F.max_pool2d(t, 2),
    "average_pool": lambda t: F.avg_pool2d(t, 2),
    "adaptive_average_pool": lambda t: F.adaptive_avg_pool2d(t, 1),
    "mean": lambda t: t.mean((2, 3)),
    "concat": lambda t: torch.cat([t, t.flip(1)], 1),
    "reshape": lambda t: t.reshape(-1, 4),
    "permute": lambda t: t.permute(0, 2, 3, 1),
    "transpose": lambda t: t.transpose(1, 2),
    "squeeze": lambda t: t[:, :1].squeeze(1),
    "unsqueeze": lambda t: t.unsqueeze(0),
    "expand": lambda t: t[:, :1].expand(-1, 4, -1, -1),
    "slice": lambda t: t[:, 1:3, ::2],
    "select": lambda t: t[:, 1],
    "split": lambda t: torch.stack(t.split(2, 1)),
    "chunk": lambda t: torch.cat(t.chunk(2, 1)[::-1], 1),
    "pad": lambda t: F.pad(t, (1, 1)),
    "nearest": lambda t: F.interpolate(t, scale_factor=2),
    "pixel_shuffle": lambda t: F.pixel_shuffle(t, 2),
    "dropout": lambda t: F.dropout(t, 0.5, training=False),
}


@pytest.mark.parametrize("name", MOVES_VALUES)
def test_ops_that_move_values_share_the_quantizer_of_what_they_move(name):
    quantizer, prepared = calibrated(Call(MOVES_VALUES[name]), image())
    assert set(quantizers(prepared)) == {"conv2d_input", "conv2d_weight", "conv2d_output"}
    assert torch.equal(quantizer.finalize()(image()), prepared(image()))


# batch norms


def test_joint_compression_folds_the_norm_through_compressed_weights():
    from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig

    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    palettizer = KMeansPalettizer(model, KMeansPalettizerConfig())
    palettizer.prepare((image(),))
    names = assert_close(palettizer.finalize(), image(), weights_quantized=0)
    assert not {"batch_norm", "mul", "add", "sub", "div"} & set(names)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}], ids=str)
def test_a_norm_without_parameters_or_statistics_folds_or_is_left(options):
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, **options)))
    names = assert_close(model, image(), weights_quantized=1)
    assert ("batch_norm" in names) == ("track_running_stats" in options)


def test_a_norm_after_a_grouped_transposed_convolution_folds():
    model = randomized(nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)))
    names = assert_close(model, image(shape=(2, 4, 8, 8)), weights_quantized=1)
    assert not {"batch_norm", "mul", "add"} & set(names)


class TwoReaders(nn.Module):
    def __init__(self, second_norm):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.one = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.other = nn.BatchNorm2d(8) if second_norm else nn.Identity()

    def forward(self, x):
        y = self.conv(x)
        return self.one(y) + self.other(y)


@pytest.mark.parametrize("second_norm", [True, False])
def test_a_convolution_with_two_readers_is_not_done_twice_for_a_norm(second_norm):
    names = assert_close(randomized(TwoReaders(second_norm)), image(), weights_quantized=1)
    assert names.count("conv2d") == 1
    assert names.count("mul") == 1 + second_norm, "what is left of a norm is one product and one sum"
    assert not {"batch_norm", "sqrt", "rsqrt"} & set(names)


@pytest.mark.parametrize(
    ("layers", "shape", "left"),
    [
        ((nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)), (2, 3, 8, 8), 0),
        ((nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1)), (2, 3, 8, 8), 1),
        ((nn.Conv2d(3, 8, 3), nn.Dropout(), nn.BatchNorm2d(8)), (2, 3, 8, 8), 0),
        ((nn.Linear(8, 8), nn.BatchNorm1d(5)), (2, 5, 8), 1),
    ],
    ids=["before", "before padding", "after dropout", "of another axis"],
)
def test_norms_in_unusual_places_fold_or_become_one_affine_function(layers, shape, left):
    names = assert_close(randomized(nn.Sequential(*layers)), image(shape=shape), weights_quantized=1)
    assert names.count("mul") == left
    assert "batch_norm" not in names


# the life of a quantizer


def test_finalizing_twice_and_for_both_backends_works():
    quantizer, prepared = calibrated(Call(nn.ReLU()), image())
    first, second = quantizer.finalize(backend=ExportBackend.CoreAI), quantizer.finalize()
    assert torch.equal(first(image()), second(image()))
    assert torch.equal(first(image()), prepared(image()))


def test_one_model_is_prepared_twice_and_stays_as_it_was():
    model = Call(nn.ReLU()).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(2):
        calibrated(model, image())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert set(model.state_dict()) == set(before)


def test_a_prepared_model_is_saved_and_loaded():
    _, prepared = calibrated(randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())), image())
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(image()), prepared(image()))


def test_a_failed_prepare_is_one_clear_error_and_can_be_repeated():
    quantizer = Quantizer(Call(nn.ReLU()).eval())
    with pytest.raises(GraphpressError, match=r"cannot export.*3 channels") as caught:
        quantizer.prepare((image(shape=(2, 5, 8, 8)),))
    assert len(str(caught.value)) < 2000
    assert quantizer.prepare((image(),))(image()).shape == (2, 4, 6, 6)


def test_finalizing_without_calibration_names_what_saw_nothing():
    quantizer = Quantizer(Call(nn.ReLU()).eval())
    quantizer.prepare((image(),))
    with pytest.warns(UncalibratedWarning, match="conv2d_input, relu_output"):
        quantizer.finalize()


# configs


def test_a_block_that_does_not_divide_names_the_layers_and_sizes_that_would():
    with pytest.raises(
        ValueError, match=r"0.weight .*block_size=32 does not divide axis 1 of size 36.*: .*12.*36"
    ) as caught:
        calibrated(nn.Sequential(nn.Linear(36, 8)), image(shape=(2, 36)), config=QuantizerConfig.presets.w4_per_block())
    assert not isinstance(caught.value, BlockSizeError), "one error for all layers"


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_weight_that_blocks_do_not_divide_is_skipped_with_a_warning_unless_a_switch_makes_it_an_error(mode):
    model = nn.Sequential(nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    config = QuantizerConfig.presets.w4_per_block()
    config.execution_mode = ExecutionMode(mode)
    quantizer = Quantizer(model, config)
    x = image(shape=(2, 36))
    with pytest.raises(ValueError, match="leave_indivisible=True skips such weights"):
        quantizer.prepare((x,), leave_indivisible=False)
    with pytest.warns(WholeWeightsWarning, match="1 weight skipped:\n.*36"):
        quantizer.prepare((x,))
    finalized = quantizer.finalize()
    sizes = sorted(tensor.numel() for tensor in finalized.state_dict().values() if tensor.dtype is torch.float32)
    assert 36 * 32 in sizes
    assert 32 * 8 not in sizes


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_weight_that_is_named_and_that_blocks_do_not_divide_is_an_error(mode):
    model = nn.Sequential(nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    config = QuantizerConfig.presets.w4_per_block()
    config.execution_mode = ExecutionMode(mode)
    config.set_module_name("0", ModuleQuantizerConfig.presets.w4_per_block())
    x = image(shape=(2, 36))
    with pytest.raises(ValueError, match="1 weight cannot be divided"):
        Quantizer(model, config).prepare((x,))
    with pytest.warns(WholeWeightsWarning, match="1 weight skipped:\n.*36"):
        Quantizer(model, config).prepare((x,), leave_indivisible=True)


def test_a_config_is_plain_data_and_the_callers_is_left_alone():
    config = QuantizerConfig.presets.w8a8().set_module_type(nn.Linear, ModuleQuantizerConfig.presets.w4())
    data = config.to_dict()
    again = yaml.safe_load(yaml.safe_dump(data))
    assert QuantizerConfig.from_dict(again) == config
    assert again == data


def test_inputs_by_name_mixed_keys_and_later_outputs_work():
    only = OpQuantizerConfig(op_input_spec={"input": QuantizationSpec(), 1: None, "*": None}, op_output_spec=None)
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_type_config={"conv2d": only}))
    _, prepared = calibrated(Call(nn.ReLU()), image(), config=config)
    assert "conv2d_input" in quantizers(prepared)
    assert "relu_output" not in quantizers(prepared)


@pytest.mark.parametrize("field", [{"dtpye": "int8"}, {"n_bits": 4}])
def test_an_unknown_field_is_an_error_with_advice(field):
    with pytest.raises(SpecError, match=r"did you mean 'dtype'|dtype='int4'"):
        QuantizationSpec(**field)


def test_a_name_that_matches_nothing_is_an_error_with_near_names():
    with pytest.raises(UnmatchedConfigError, match="did you mean 'conv'"):
        calibrated(Call(nn.ReLU()), image(), config=QuantizerConfig().set_module_name("cnov", None))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "hardtanh"])
def test_an_explicit_scheme_or_range_wins_over_the_known_one(name):
    default = quantizers(calibrated(Call(ACTIVATIONS[name]()), image())[1])[f"{name}_output"].spec
    own = QuantizationSpec(dtype="int8", qscheme="symmetric", float_range=(-8, 8))
    per_op = OpQuantizerConfig(op_output_spec={"*": own})
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_type_config={"conv2d": per_op}))
    found = quantizers(calibrated(Call(ACTIVATIONS[name]()), image(), config=config)[1])[f"{name}_output"].spec
    assert default.qscheme.value == "asymmetric"
    assert found == own


# numbers


def test_activations_of_four_bits_work():
    each = QuantizationSpec(dtype="int4")
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_input_spec={"*": each}, op_output_spec={"*": each}))
    assert_close(Call(nn.ReLU()), image(), weights_quantized=1, tolerance=0.4, config=config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_16_bits_are_equal_prepared_and_finalized(dtype):
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3), nn.Sigmoid()
    model = randomized(nn.Sequential(*layers)).to(dtype)
    assert_close(model, image().to(dtype), weights_quantized=2)


class Flattening(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, 5)

    def forward(self, x):
        return self.head(self.conv(x).view(x.size(0), -1))


def test_calibration_at_another_batch_size_works():
    quantizer, prepared = calibrated(Flattening(), image(), image(1, (5, 3, 8, 8)))
    assert prepared(image(2, (7, 3, 8, 8))).shape == quantizer.finalize()(image(2, (7, 3, 8, 8))).shape == (7, 5)


class Masked(nn.Module):
    def __init__(self, edge):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("mask", torch.full((6, 6), edge).triu(1))

    def forward(self, x):
        return (self.query(x) @ self.key(x).transpose(-1, -2) + self.mask).softmax(-1) @ x


@pytest.mark.parametrize("edge", [float("-inf"), torch.finfo(torch.float32).min])
def test_the_edges_of_a_mask_survive_a_quantized_addition(edge):
    assert_close(Masked(edge), image(shape=(2, 6, 8)), weights_quantized=2, tolerance=0.1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_enters_no_range(bad):
    poisoned = image(1)
    poisoned[0, 0, 0, 0] = bad
    _, clean = calibrated(Call(nn.ReLU()), image(), image(2))
    _, other = calibrated(Call(nn.ReLU()), image(), poisoned, image(2))
    assert torch.equal(clean(image()), other(image()))


def test_an_example_far_too_large_does_not_linger():
    quantizer = Quantizer(Call(nn.Identity()).eval())
    prepared = quantizer.prepare((100 * image(),))
    with quantizer.calibration_mode():
        for seed in range(10):
            prepared(image(seed))
    _, fair = calibrated(Call(nn.Identity()), image())
    for name, quantizer in quantizers(prepared).items():
        if not quantizer.is_state:
            assert quantizer.qparams()[0] < 3 * quantizers(fair)[name].qparams()[0]


# models


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.yes, self.no = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        y = self.first(x)
        return self.first(torch.cond(y.sum() > 0, lambda t: self.yes(t), lambda t: torch.relu(self.no(t)), (y,)))


def test_a_model_with_a_condition_is_quantized_around_it_and_its_weights_inside_too():
    x = image(shape=(2, 8))
    quantizer, prepared = calibrated(Branching(), x, -x)
    assert sorted(weights(prepared)) == ["cond_no_weight", "cond_yes_weight", "linear_weight"]
    finalized = quantizer.finalize()
    assert sum(tensor.dtype is torch.int8 and tensor.shape == (8, 8) for tensor in finalized.state_dict().values()) == 3
    for inputs in (x, -x):
        assert torch.equal(finalized(inputs), prepared(inputs))


def test_a_concatenation_of_a_fixed_and_a_free_range_has_one_free_quantizer():
    _, prepared = calibrated(Call(lambda t: torch.cat([torch.sigmoid(t.flip(1)), t], 1)), image())
    assert [name for name in quantizers(prepared) if name.endswith("_output")] == ["conv2d_output"]


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolutions_match_whatever_way_their_padding_is_written(padding):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=padding), nn.BatchNorm2d(4), nn.ReLU())
    names = assert_close(randomized(model), image(), weights_quantized=1)
    assert "batch_norm" not in names


class Sequence(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.layer = {
            "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
            "lstm": lambda: nn.LSTM(8, 8, batch_first=True),
            "gru": lambda: nn.GRU(8, 8, batch_first=True),
            "lstm cell": lambda: nn.LSTMCell(8, 8),
            "gru cell": lambda: nn.GRUCell(8, 8),
            "bilinear": lambda: nn.Bilinear(8, 8, 4),
            "parameter": lambda: nn.ParameterList([torch.randn(8, 4)]),
        }[kind]()

    def forward(self, x):
        match self.kind:
            case "attention":
                return self.layer(x, x, x)[0]
            case "lstm" | "gru":
                return self.layer(x)[0]
            case "lstm cell" | "gru cell":
                found = self.layer(x[:, 0])
                return found[0] if isinstance(found, tuple) else found
            case "bilinear":
                return self.layer(x, x)
        return x @ self.layer[0]


@pytest.mark.parametrize(
    ("kind", "count"),
    [("attention", 2), ("lstm", 2), ("gru", 2), ("lstm cell", 2), ("gru cell", 2), ("bilinear", 1), ("parameter", 1)],
)
def test_one_key_means_weights_by_every_name(kind, count):
    every = QuantizerConfig(
        global_config=ModuleQuantizerConfig(op_state_spec={"*": default_weight_quantization_spec()})
    )
    x, exact = image(shape=(2, 5, 8)), kind not in ("lstm", "gru")
    assert_close(Sequence(kind), x, config=every, weights_quantized=count, exact=exact)


# determinism


class Ordered(nn.Module):
    def __init__(self, names):
        super().__init__()
        made = {}
        for seed, name in enumerate(("stem", "left", "right", "head")):
            torch.manual_seed(seed)
            made[name] = nn.Conv2d(3, 3, 3, padding=1)
        for name in names:
            self.add_module(name, made[name])

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.cat([self.left(x), torch.sigmoid(self.right(x))], 1)[:, 1:4])


def test_the_order_of_modules_and_the_number_of_threads_change_no_bit():
    found = []
    before = torch.get_num_threads()
    try:
        for threads, names in ((1, "stem left right head"), (1, "head right left stem"), (3, "stem left right head")):
            torch.set_num_threads(threads)
            quantizer, _ = calibrated(Ordered(names.split()), image(), image(1))
            state = quantizer.finalize().state_dict()
            found.append({name: state[name] for name in sorted(state)})
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in found[0].items())
