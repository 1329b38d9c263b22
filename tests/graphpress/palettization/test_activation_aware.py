"""Clustering in which elements count by the second moments of the inputs that they multiply."""

import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional

from graphpress.compressor import LifeCycleError
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    PalettizationWarning,
    calibration,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.passes.weights import palettize
from graphpress.quantization import QuantizationSpec

AWARE = {"n_bits": 2, "activation_aware": True}


def config(*names, **spec):
    each = PalettizationSpec(**{**AWARE, **spec})
    states = dict.fromkeys(names or ("weight", "in_proj_weight"), each)
    return KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec=states))


def uneven(*shape, seed=0):
    """Data whose channels, on axis 1, differ much in magnitude."""
    generator = torch.Generator().manual_seed(seed)
    gains = torch.logspace(-1, 1, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    return torch.randn(shape, generator=generator) * gains


def adapted(layer):
    """`layer` with small weights where `uneven` inputs are large, as training leaves them."""
    with torch.no_grad():
        layer.weight /= torch.logspace(-1, 1, layer.weight.shape[1]).reshape(1, -1, *[1] * (layer.weight.ndim - 2))
    return layer


def calibrated(model, batches, wanted=None, path=None):
    palettizer = KMeansPalettizer(model, wanted or config())
    prepared = palettizer.prepare((batches[0],))
    with palettizer.calibration_mode(sensitivity_path=path):
        for batch in batches:
            prepared(batch)
    return palettizer, prepared


def moments(layer, batches, name="weight"):
    """The same by another way: a layer is linear in its weight, so each derivative is an input that it multiplies."""
    weight = getattr(layer, name).detach()
    total = torch.zeros(weight.shape)
    for batch in batches:
        derivatives = jacrev(lambda w, x=batch: functional_call(layer, {name: w}, (x,)))(weight)
        total += derivatives.square().sum(tuple(range(derivatives.ndim - weight.ndim)))
    return total


def damped(energies):
    return energies + 0.01 * energies.mean()


LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), (5, 8)),
    "linear on sequences": (lambda: nn.Sequential(nn.Linear(4, 6)), (3, 7, 4)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 7, 6)),
    "same padding": (lambda: nn.Conv1d(4, 8, 4, padding="same", dilation=2), (2, 4, 9)),
    "circular padding": (lambda: nn.Conv1d(4, 8, 3, padding=1, padding_mode="circular"), (2, 4, 9)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (2, 4, 7, 8)),
    "depthwise": (lambda: nn.Conv1d(6, 12, 5, groups=6, padding=2), (2, 6, 9)),
    "three axes": (lambda: nn.Conv3d(3, 4, 2), (1, 3, 4, 3, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 4)),
    "grouped transposed": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3, groups=2, dilation=2), (2, 4, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_elements_count_by_the_second_moments_of_what_they_multiply(kind, tmp_path):
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = make()
    named = {name: p for name, p in layer.named_parameters() if p.ndim > 1}
    ((name, weight),) = named.items()
    batches = [uneven(*shape, seed=seed) for seed in (0, 1)]
    _, prepared = calibrated(layer, batches, path=tmp_path / "importances")
    expected = damped(moments(layer, batches, name) if name == "weight" else _first_layer_moments(layer, batches))
    found = load_file(tmp_path / "importances")[name].expand_as(weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    owner = prepared if name == "weight" else prepared[0]
    op_type = {nn.Linear: "linear"}.get(type(owner), type(owner).__name__.lower().replace("transpose", "_transpose"))
    wanted = palettize(weight, PalettizationSpec(n_bits=2), op_type, importance=found / found.mean())
    torch.testing.assert_close(owner.weight.detach(), wanted.dense(), rtol=1e-4, atol=0)


def _first_layer_moments(model, batches):
    return moments(model[0], batches)


def test_a_layers_output_comes_closer_where_inputs_are_uneven():
    torch.manual_seed(0)
    model = adapted(nn.Linear(64, 32, bias=False))
    data = uneven(256, 64)
    errors = {}
    for name, wanted in {"alike": config(activation_aware=False), "aware": config()}.items():
        palettizer = KMeansPalettizer(model, wanted)
        prepared = palettizer.prepare((data,))
        if name == "aware":
            with palettizer.calibration_mode():
                prepared(data[:128])
        with torch.no_grad():
            errors[name] = float((prepared(data[128:]) - model(data[128:])).square().mean())
    assert errors["aware"] < 0.5 * errors["alike"]


@pytest.mark.parametrize(
    "spec",
    [
        {"cluster_dim": 2},
        {"granularity": PerGroupedChannelGranularity(group_size=8)},
        {"enable_per_channel_scale": True},
        {"lut_qspec": QuantizationSpec()},
        {"lut_qspec": QuantizationSpec(), "enable_per_channel_scale": True, "cluster_dim": 2},
    ],
)
def test_every_kind_of_table_heeds_what_elements_count(spec):
    worse = better = 0.0
    for seed in range(2):
        torch.manual_seed(seed)
        model = adapted(nn.Conv1d(32, 16, 3, bias=False))
        data = uneven(8, 32, 20, seed=seed)
        before = KMeansPalettizer(model, config(**spec)).prepare((data,))
        palettizer, after = calibrated(model, [data], config(**spec))
        with torch.no_grad():
            worse += float((before(data) - model(data)).square().sum())
            better += float((after(data) - model(data)).square().sum())
            assert torch.equal(palettizer.finalize()(data), after(data))
    assert better < 0.95 * worse


def test_attention_counts_queries_keys_and_values_by_their_own_inputs(tmp_path):
    torch.manual_seed(0)

    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x.flip(1), 3 * x[:, :2], x[:, :2] + 1)[0]

    model = Cross().eval()
    data = uneven(2, 5, 8).transpose(1, 2).reshape(2, 5, 8)
    calibrated(model, [data], path=tmp_path / "importances")
    found = load_file(tmp_path / "importances")["attention.in_proj_weight"]
    inputs = (data.flip(1), 3 * data[:, :2], data[:, :2] + 1)
    expected = torch.cat([x.reshape(-1, 8).square().sum(0).expand(8, 8) for x in inputs])
    torch.testing.assert_close(found, damped(expected), rtol=1e-4, atol=1e-6)


def test_attention_to_itself_counts_alike_for_all_three(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    data = torch.randn(2, 5, 8)
    with torch.no_grad():
        calibrated(model, [data], path=tmp_path / "importances")
    found = load_file(tmp_path / "importances")
    expected = damped(data.reshape(-1, 8).square().sum(0))
    torch.testing.assert_close(found["0.self_attn.in_proj_weight"], expected[None], rtol=1e-4, atol=1e-6)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "0.self_attn.in_proj_weight": (1, 8),
        "0.self_attn.out_proj.weight": (1, 8),
        "0.linear1.weight": (1, 8),
        "0.linear2.weight": (1, 16),
    }


class Shared(nn.Module):
    """A weight read as rows of an embedding, by a linear layer, by its transpose, and one that only a sum reads."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight
        self.mix = nn.Parameter(torch.randn(16, 8))
        self.shift = nn.Parameter(torch.randn(8, 16))

    def forward(self, tokens):
        hidden = self.head(self.embed(tokens))
        return (hidden @ self.mix) @ self.mix.t() + functional.linear(hidden[..., :8], self.embed.weight)[..., :1]


def test_errors_of_layers_that_share_a_weight_add_up(tmp_path):
    torch.manual_seed(0)
    model = Shared().eval()
    tokens = torch.arange(12).reshape(3, 4)
    calibrated(model, [tokens], config("weight", "mix"), tmp_path / "importances")
    found = load_file(tmp_path / "importances")
    with torch.no_grad():
        embedded = model.embed(tokens).reshape(-1, 8)
        hidden = embedded @ model.embed.weight.t()
        mixed = hidden @ model.mix
    by_column = embedded.square().sum(0) + hidden[:, :8].square().sum(0)
    torch.testing.assert_close(found["embed.weight"], damped(by_column)[None], rtol=1e-4, atol=1e-5)
    # Of `hidden @ mix` the rows are the columns; of `@ mix.t()` the columns are.
    by_element = hidden.square().sum(0)[:, None] + mixed.square().sum(0)[None]
    torch.testing.assert_close(found["mix"], damped(by_element), rtol=1e-4, atol=1e-5)


def test_weights_without_such_inputs_count_alike_and_are_named(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True))
    wanted = config("weight", "weight_.h_l0")
    with pytest.warns(PalettizationWarning, match=r"are equally important: 1\.weight_ih_l0, 1\.weight_hh_l0$"):
        _, prepared = calibrated(model, [torch.randn(4, 5, 8)], wanted, tmp_path / "importances")
    assert load_file(tmp_path / "importances")["1.weight_ih_l0"].tolist() == [[1.0]]
    plain = KMeansPalettizer(model, config("weight_.h_l0", activation_aware=False)).prepare((torch.randn(4, 5, 8),))
    assert torch.equal(prepared[1].weight_ih_l0, plain[1].weight_ih_l0)


def test_only_weights_that_ask_for_it_are_clustered_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    wanted = config(activation_aware=False).set_module_name(
        "1", ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**AWARE)})
    )
    data = uneven(16, 32)
    _, prepared = calibrated(model, [data], wanted)
    plain = KMeansPalettizer(model, config(activation_aware=False)).prepare((data,))
    assert torch.equal(prepared[0].weight, plain[0].weight)
    assert not torch.equal(prepared[1].weight, plain[1].weight)


def test_importances_are_saved_and_read_again(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3))
    data = uneven(2, 4, 8, 8)
    palettizer, prepared = calibrated(model, [data], path=tmp_path / "importances")
    again = KMeansPalettizer(model, config())
    assert torch.equal(again.prepare((data,), sensitivity_path=tmp_path / "importances")(data), prepared(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PalettizationWarning)
        assert torch.equal(again.finalize()(data), palettizer.finalize()(data))
    again.save_sensitivities(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "importances").read_bytes()


def test_the_model_in_calibration_is_the_float_one_and_afterwards_as_before():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).train()
    palettizer = KMeansPalettizer(model, config())
    prepared = palettizer.prepare()
    data = torch.randn(4, 8)
    types = [type(module) for module in prepared.modules()]
    with palettizer.calibration_mode(), torch.inference_mode():
        assert torch.equal(prepared(data), model[2](model[0](data)))
    assert [type(module) for module in prepared.modules()] == types
    assert all(module.training for module in prepared.modules())
    assert len(prepared[0].weight.unique()) == 4
    with pytest.raises(RuntimeError), palettizer.calibration_mode():
        prepared(data[:, :3])
    assert [type(module) for module in prepared.modules()] == types
    assert len(prepared[0].weight.unique()) == 4


def test_batches_that_are_not_finite_count_for_nothing():
    torch.manual_seed(0)
    model = nn.Linear(16, 8)
    good, bad = uneven(8, 16), torch.full((8, 16), torch.nan)
    _, expected = calibrated(model, [good])
    with pytest.warns(PalettizationWarning, match="1 inputs of layers were ignored"):
        _, prepared = calibrated(model, [good, bad])
    assert torch.equal(prepared.weight, expected.weight)


def test_what_is_missing_is_told():
    model = nn.Linear(16, 8)
    palettizer = KMeansPalettizer(model)
    palettizer.prepare()
    with (
        pytest.raises(LifeCycleError, match=r"pass loss_fn.*activation_aware=True"),
        palettizer.calibration_mode(),
    ):
        pass
    aware = KMeansPalettizer(model, config())
    aware.prepare()
    with pytest.warns(PalettizationWarning, match="saw no run of the prepared model"), aware.calibration_mode():
        pass
    with pytest.warns(PalettizationWarning, match="activation_aware had no data"):
        aware.finalize()


def test_the_option_is_plain_data():
    text = config().to_yaml()
    assert "activation_aware: true" in text
    assert KMeansPalettizerConfig.from_yaml(text) == config()


def test_16_bit_models_are_measured_in_float32():
    torch.manual_seed(0)
    model = nn.Linear(16, 8).half()
    data = (uneven(8, 16) * 300).half()  # whose squares float16 does not hold
    palettizer, prepared = calibrated(model, [data])
    plain = KMeansPalettizer(model, config()).prepare()
    assert not torch.equal(prepared.weight, plain.weight)
    assert prepared.weight.dtype is torch.float16
    assert torch.equal(palettizer.finalize().weight, prepared.weight)


def test_measuring_the_inputs_of_another_axis_would_be_seen(monkeypatch):
    """A wrong version: moments of the output channels."""
    right = calibration.LayerMatrix.column_energies
    monkeypatch.setattr(calibration.LayerMatrix, "column_energies", lambda self, data: right(self, data).flip(-1))
    torch.manual_seed(0)
    model, data = adapted(nn.Linear(64, 32, bias=False)), uneven(256, 64)
    _, wrong = calibrated(model, [data])
    plain = KMeansPalettizer(model, config()).prepare()
    with torch.no_grad():
        errors = [float((each(data) - model(data)).square().mean()) for each in (wrong, plain)]
    assert errors[0] > errors[1]
