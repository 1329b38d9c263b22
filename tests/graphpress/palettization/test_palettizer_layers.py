"""Weights of every kind of layer: which are palettized, that they run in Core AI, and that what is shared stays so."""

import copy

import pytest
import torch
from torch import nn

from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationError,
    PalettizationSpec,
    PalettizationWarning,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randint(0, 32, (2, 6), generator=GENERATOR)
SEQUENCE = torch.randn(2, 3, 16, generator=GENERATOR)
LINE = torch.randn(1, 16, 8, generator=GENERATOR)
IMAGE = torch.randn(1, 16, 6, 6, generator=GENERATOR)
VOLUME = torch.randn(1, 16, 4, 4, 4, generator=GENERATOR)


class Attention(nn.MultiheadAttention):
    """Of a sequence to itself, or to its first features."""

    def __init__(self, keys=16):
        super().__init__(16, 2, kdim=keys, vdim=keys, batch_first=True)
        self.keys = keys

    def forward(self, x):
        return super().forward(x, x[..., : self.keys], x[..., : self.keys], need_weights=False)[0]


class Sequences(nn.Module):
    """A recurrent layer without its final states."""

    def __init__(self, kind, **options):
        super().__init__()
        self.layer = kind(16, 16, batch_first=True, **options)

    def forward(self, x):
        return self.layer(x)[0]


class Step(nn.Module):
    """One step of a recurrent cell."""

    def __init__(self, kind):
        super().__init__()
        self.cell = kind(16, 16)

    def forward(self, x):
        made = self.cell(x[:, 0])
        return made[0] if isinstance(made, tuple) else made


class Pairs(nn.Bilinear):
    """Of a sequence with itself."""

    def forward(self, x):
        return super().forward(x, x)


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(16, 8, 3), LINE),
    "conv1d_grouped": (lambda: nn.Conv1d(16, 16, 3, groups=4, padding="same"), LINE),
    "conv2d": (lambda: nn.Conv2d(16, 8, 3), IMAGE),
    "conv3d": (lambda: nn.Conv3d(16, 8, 3), VOLUME),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(16, 8, 3), LINE),
    "conv_transpose2d_grouped": (lambda: nn.ConvTranspose2d(16, 16, 3, groups=2), IMAGE),
    "linear": (lambda: nn.Linear(16, 8), SEQUENCE),
    "embedding": (lambda: nn.Embedding(32, 16), TOKENS),
    "attention": (Attention, SEQUENCE),
    "attention_to_others": (lambda: Attention(8), SEQUENCE),
    "lstm": (lambda: Sequences(nn.LSTM, bidirectional=True), SEQUENCE),
    "lstm_projected": (lambda: Sequences(nn.LSTM, proj_size=8), SEQUENCE),
    "gru": (lambda: Sequences(nn.GRU), SEQUENCE),
    "rnn": (lambda: Sequences(nn.RNN), SEQUENCE),
    "lstm_cell": (lambda: Step(nn.LSTMCell), SEQUENCE),
    "gru_cell": (lambda: Step(nn.GRUCell), SEQUENCE),
    "rnn_cell": (lambda: Step(nn.RNNCell), SEQUENCE),
}
NOT_IN_THE_RUNTIME = {
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(16, 8, 2), VOLUME),
    "bilinear": (lambda: Pairs(16, 16, 8), SEQUENCE),
    "embedding_bag": (lambda: nn.EmbeddingBag(32, 16), TOKENS),
}
# What the default config, which speaks of `weight` and `in_proj_weight`, leaves out.
BY_OTHER_NAMES = {"lstm", "lstm_projected", "gru", "rnn", "lstm_cell", "gru_cell", "rnn_cell"}


class Every(nn.Module):
    """One layer of each kind, side by side."""

    def __init__(self, layers, dtype):
        super().__init__()
        self.layers = nn.ModuleDict({name: make() for name, (make, _) in layers.items()})
        self.to(dtype)

    def forward(self, *inputs):
        return tuple(layer(data) for layer, data in zip(self.layers.values(), inputs, strict=True))


def every(layers, dtype=torch.float32):
    torch.manual_seed(0)
    return Every(layers, dtype).eval()


def inputs_of(layers, dtype=torch.float32):
    return tuple(data.to(dtype) if data.is_floating_point() else data for _, data in layers.values())


def config(*names, **spec):
    each = PalettizationSpec(**spec)
    return KMeansPalettizerConfig(
        global_config=ModuleKMeansPalettizerConfig(op_state_spec=dict.fromkeys(names or ("weight",), each))
    )


def palettized_names(model):
    return {
        name.removesuffix("_indices") for name, _ in model.named_buffers(remove_duplicate=False) if "_indices" in name
    }


def weights_of(model):
    """The names of all parameters that are matrices or more."""
    return {name for name, parameter in model.named_parameters() if parameter.ndim > 1}


GROUPED = {"granularity": PerGroupedChannelGranularity(group_size=4)}


@pytest.mark.parametrize("granularity", [{}, pytest.param(GROUPED, marks=pytest.mark.slow)])
def test_weights_of_every_layer_run_in_core_ai(tmp_path, granularity):
    coreai = pytest.importorskip("graphpress.backends.coreai")
    pytest.importorskip("coreai_torch")
    model, inputs = every(LAYERS), inputs_of(LAYERS)
    palettizer = KMeansPalettizer(model, config(".*weight.*", n_bits=3, **granularity))
    prepared = palettizer.prepare(inputs)
    assert palettized_names(prepared) == weights_of(model)
    finalized = palettizer.finalize()
    with torch.no_grad():
        torch.testing.assert_close(finalized(*inputs), prepared(*inputs))
    info = coreai.convert(finalized, tmp_path / "m.aimodel", inputs)
    report = coreai.check(info.path, finalized, inputs, tolerance=1e-5)
    assert report.ok, report


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_every_layer_are_palettized_in_every_floating_dtype(dtype):
    layers = LAYERS | NOT_IN_THE_RUNTIME
    model, inputs = every(layers, dtype), inputs_of(layers, dtype)
    palettizer = KMeansPalettizer(model, config(".*weight.*", n_bits=2))
    prepared = palettizer.prepare(inputs)
    assert palettized_names(prepared) == weights_of(model)
    for name in weights_of(model):
        path, _, parameter = name.rpartition(".")
        weight = getattr(prepared.get_submodule(path), parameter)
        assert weight.dtype is dtype
        assert len(weight.unique()) == 4
    with torch.no_grad():
        for backend in ("coreai", "coreml"):
            finalized = palettizer.finalize(backend=backend)
            for ours, expected in zip(finalized(*inputs), prepared(*inputs), strict=True):
                torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-3 if dtype is torch.float32 else 2e-2)


def test_the_default_config_means_weights_by_their_usual_names():
    layers = LAYERS | NOT_IN_THE_RUNTIME
    prepared = KMeansPalettizer(every(layers)).prepare(inputs_of(layers))
    expected = {f"layers.{name}.weight" for name in layers if name not in BY_OTHER_NAMES} - {
        "layers.attention.weight",
        "layers.attention_to_others.weight",
    }
    expected |= {"layers.attention.in_proj_weight", "layers.attention.out_proj.weight"}
    expected |= {"layers.attention_to_others.out_proj.weight"}
    assert palettized_names(prepared) == expected


@pytest.mark.parametrize("name", ["conv_transpose1d", "conv_transpose2d_grouped", "conv2d", "linear", "attention"])
def test_groups_are_of_output_channels_whichever_way_round_a_layer_stores_them(name):
    grouped = config(".*weight.*", n_bits=2, granularity=PerGroupedChannelGranularity(axis=0, group_size=4))
    prepared = KMeansPalettizer(every({name: LAYERS[name]}), grouped).prepare(inputs_of({name: LAYERS[name]}))
    layer = prepared.layers[name]
    weight = layer.in_proj_weight if name == "attention" else layer.weight
    channels = weight.transpose(0, 1) if "transpose" in name else weight
    for group in channels.split(4):
        assert len(group.unique()) == 4


# Weights that are shared


class Shared(nn.Module):
    """One module used under two names, and two modules with one weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.again = self.first
        self.tied = nn.Linear(16, 16)
        self.tied.weight = self.first.weight
        self.turned = nn.Linear(16, 16)

    def forward(self, x):
        return self.turned(self.tied(self.again(self.first(x))))


ROWS = SEQUENCE[:, 0]


def shared():
    torch.manual_seed(0)
    return Shared().eval()


def test_what_modules_share_is_clustered_once_and_stored_once(tmp_path, monkeypatch):
    from graphpress.palettization.jobs import Job

    ran, run = [], Job.run
    monkeypatch.setattr(Job, "run", lambda job: ran.append(job.name) or run(job))
    palettizer = KMeansPalettizer(shared())
    prepared = palettizer.prepare((ROWS,))
    assert ran == ["first.weight", "turned.weight"]
    finalized = palettizer.finalize()
    for model in (prepared, finalized, copy.deepcopy(finalized)):
        assert model.first is model.again
        assert model.first.weight_indices is model.tied.weight_indices
        assert model.first.weight_lut is model.tied.weight_lut
    coreai = pytest.importorskip("graphpress.backends.coreai")
    pytest.importorskip("coreai_torch")
    info = coreai.convert(finalized, tmp_path / "m.aimodel", (ROWS,))
    assert coreai.check(info.path, finalized, (ROWS,)).ok
    tables, biases, axes_to_transpose = 2 * (16 * 16 // 2 + 16 * 4), 3 * 16 * 4, 2 * 4
    assert coreai.weight_bytes(info.path) == tables + biases + axes_to_transpose


def test_of_what_is_said_about_a_shared_weight_the_most_specific_holds():
    wanted = config(n_bits=4)
    wanted.set_module_name("tied", ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=2)}))
    prepared = KMeansPalettizer(shared(), wanted).prepare((SEQUENCE,))
    assert len(prepared.first.weight.unique()) == len(prepared.tied.weight.unique()) == 4
    wanted.set_module_name("tied", None)
    whole = KMeansPalettizer(shared(), wanted).prepare((SEQUENCE,))
    assert palettized_names(whole) == {"turned.weight"}


# What cannot be palettized


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_that_is_not_finite_is_refused_by_its_name(bad, dtype):
    model = shared().to(dtype)
    with torch.no_grad():
        model.tied.weight[3, 4] = bad
    for spec in ({}, {"cluster_dim": 2}, {"enable_per_channel_scale": True}):
        with pytest.raises(PalettizationError, match=r"first\.weight: 1 of 256 elements are NaN or infinite"):
            KMeansPalettizer(model, config(**spec)).prepare((SEQUENCE.to(dtype),))


def test_what_is_left_whole_is_reported_by_all_its_names_and_computes_as_before():
    model = every(LAYERS)
    grouped = config(n_bits=6, granularity=PerGroupedChannelGranularity(group_size=16))
    with pytest.warns(PalettizationWarning) as caught:
        prepared = KMeansPalettizer(model, grouped).prepare(inputs_of(LAYERS))
    (warning,) = [str(each.message) for each in caught if issubclass(each.category, PalettizationWarning)]
    left = {name for name in weights_of(model) if name in warning}
    by_usual_name = {name for name in weights_of(model) if name.endswith(".weight") or "in_proj" in name}
    assert palettized_names(prepared) | left >= {name for name in by_usual_name if "in_proj" not in name}
    assert not palettized_names(prepared) & left
    assert {"layers.linear.weight", "layers.conv2d.weight", "layers.conv_transpose1d.weight"} <= left
    with torch.no_grad():
        kept = {name: layer for name, layer in model.layers.items() if f"layers.{name}.weight" in left}
        for name, layer in kept.items():
            assert torch.equal(prepared.layers[name](LAYERS[name][1]), layer(LAYERS[name][1]))
