"""Constructs of models that people bring, each converted, read back and held to torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.decompositions import ELEMENTARY
from graphpress.quantization import Quantizer, QuantizerConfig

BACKENDS = {"aimodel": coreai, "mlpackage": coreml}


class Aliases(nn.Module):
    """A slice of everything, which torch decomposes to an alias, in the middle and as an output."""

    def forward(self, x):
        return x[:, :9] * 2 + x, x.flatten(1)[:, :99]


class Positions(nn.Module):
    """Float positions and a rounded quotient, as in the embeddings of DETR."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        places = torch.arange(8, dtype=torch.float32)
        waves = 10000 ** (2 * torch.div(places, 2, rounding_mode="floor") / 8)
        return self.layer(x) / waves + torch.div(x * 3, 2, rounding_mode="floor") + places


class Slopes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.prelu = nn.PReLU(4)
        self.prelu.weight.data = torch.tensor([0.1, -0.2, 0.3, 0.4])

    def forward(self, x):
        return self.prelu(self.layer(x))


class Experts(nn.Module):
    """The number of tokens of each expert."""

    def forward(self, x):
        chosen = torch.topk(x, 2).indices
        return torch.histc(chosen.float(), bins=4, min=0, max=3) * x.sum()


class Truths(nn.Module):
    def forward(self, x):
        return (x > 0) * (x < 1), (x > 0) * 2.0


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.layer(nn.functional.pad(x, (1, 1, 0, 2), value=0.5))


class Dynamic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x).softmax(-1).reshape(x.shape[0], -1, 4).transpose(1, 2)


class Total(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 4))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


class Told(nn.Module):
    """Returns a loss that is None, and numbers, beside its tensors."""

    def forward(self, x):
        return {"logits": x * 2, "loss": None, "sizes": (x.shape[0], 0.5), "last": x + 1}


class Again(nn.Module):
    """Returns a state, its input and a result twice each."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x):
        self.total.add_(x[0])
        y = x.relu()
        return self.total, x, y, self.total, x, y


class Scattered(nn.Module):
    """Writes and adds at places along an axis; `src` is larger than the indices."""

    def forward(self, x):
        places = torch.tensor([[1, 0, 1, 2], [0, 0, 2, 1]])
        added = torch.zeros_like(x).scatter_add(0, places, x)
        return added, x.scatter(1, places[:, :3], 2 * x), x.scatter(1, places, 0.5)


IMAGE, ROWS = torch.randn(1, 3, 6, 6), torch.randn(3, 4) * 5
MODELS = {
    "aliases": (Aliases(), torch.randn(2, 9)),
    "positions": (Positions(), torch.randn(2, 8)),
    "slopes": (Slopes(), IMAGE),
    "experts": (Experts(), ROWS),
    "truths": (Truths(), ROWS),
    "outputs that are no tensors": (Told(), ROWS),
    "repeated outputs": (Again(), ROWS),
    "scattered": (Scattered(), ROWS),
    "groups in float16": (nn.Sequential(nn.GroupNorm(1, 3), nn.Conv2d(3, 4, 1)).half(), IMAGE.half()),
    "padding in float16": (Padded().half(), IMAGE.half()),
}


def assert_same(backend, path, model, x, shapes=None, held=None):
    backend.convert(model.eval(), path, x, shapes)
    report = backend.check(path, model, x if held is None else held)
    assert report.ok, report


@pytest.mark.parametrize("suffix", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_saved_file_computes_what_torch_does(name, suffix, tmp_path):
    assert_same(BACKENDS[suffix], tmp_path / f"m.{suffix}", *MODELS[name])


def test_circular_padding_in_bfloat16_becomes_an_asset(tmp_path):
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").bfloat16()
    assert_same(coreai, tmp_path / "m.aimodel", model, IMAGE.bfloat16())


@pytest.mark.parametrize("suffix", BACKENDS)
def test_quantized_positions_and_rounded_quotients_convert(suffix, tmp_path):
    x = torch.randn(2, 8)
    quantizer = Quantizer(Positions().eval(), QuantizerConfig())
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode():
        prepared(x)
    assert_same(BACKENDS[suffix], tmp_path / f"m.{suffix}", quantizer.finalize(), (x,))


@pytest.mark.parametrize("suffix", BACKENDS)
def test_a_dynamic_model_is_read_back_at_another_size(suffix, tmp_path):
    shapes = ({0: torch.export.Dim("rows", max=9)},)
    assert_same(
        BACKENDS[suffix], tmp_path / f"m.{suffix}", Dynamic(), torch.randn(3, 8), shapes, held=torch.randn(5, 8)
    )


@pytest.mark.parametrize("suffix", BACKENDS)
def test_a_model_with_a_state_is_read_back_and_left_as_it_was(suffix, tmp_path):
    model = Total()
    assert_same(BACKENDS[suffix], tmp_path / f"m.{suffix}", model, torch.ones(1, 4))
    assert not model.total.any()


def test_bfloat16_becomes_float32_in_a_package_and_is_told(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU()).eval().bfloat16()
    x = torch.randn(2, 4).bfloat16()
    with pytest.warns(UserWarning, match="has no bfloat16: .* become float32"):
        coreml.convert(model, tmp_path / "m.mlpackage", x)
    assert coreml.check(tmp_path / "m.mlpackage", model, x).ok
    (found,) = coreml.evaluate(tmp_path / "m.mlpackage", [x])[1]
    torch.testing.assert_close(found, model.float()(x.float()))
    assert next(model.parameters()).dtype is torch.float32  # by `float()`; the conversion had left it alone


def test_counts_of_bins_are_those_of_torch_bit_for_bit():
    torch.manual_seed(0)
    counted = ELEMENTARY[torch.ops.aten.histc.default]
    for bins in range(1, 60):
        x, (low, high) = torch.randn(50) * 4, sorted((torch.randn(2) * 3).tolist())
        assert torch.equal(counted(x, bins, low, high), torch.histc(x, bins, low, high))
        assert torch.equal(counted(x, bins), torch.histc(x, bins))
    assert torch.equal(counted(torch.ones(4), 3), torch.histc(torch.ones(4), 3))
