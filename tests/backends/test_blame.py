"""`blame`: the operator that a wrong lowering changed is named, with its place and its errors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml, promotion
from graphpress.quantization import Quantizer, QuantizerConfig

from .test_tolerance import Block, inputs

BACKENDS = {"aimodel": coreai, "mlpackage": coreml}
aten = torch.ops.aten


class PaddingMask(nn.Module):
    """The float mask that `nn.TransformerEncoderLayer` makes of a bool one."""

    def forward(self, scores, mask):
        added = torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask, float("-inf"))
        return torch.softmax(scores * 2 + added, -1)


class TimeEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = Scaled()

    def forward(self, steps):
        return torch.sin(self.embed(steps)) + 1


class Scaled(nn.Module):
    def forward(self, steps):
        return steps * 0.0123


class Turned(nn.Module):
    """Elementwise operators between two transposes, which Core ML cancels; every value is square."""

    def __init__(self, wrong=""):
        super().__init__()
        torch.manual_seed(0)
        self.wrong, self.first, self.last = wrong, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        y = self.first(x).mT
        y = torch.sigmoid(torch.relu(y + 1 if self.wrong == "relu" else y)).mT
        y = torch.matmul(x.mT, y.mT) if self.wrong == "matmul" else torch.matmul(y, x)
        return self.last(y + 1 if self.wrong == "linear" else y)


def without_promotions(monkeypatch, *operators):
    """Convert as the converter alone does: these operators are not promoted."""
    for operator in operators:
        monkeypatch.delitem(promotion.PROMOTIONS, operator)


def test_a_padding_mask_that_became_a_bool_one_is_named(tmp_path, monkeypatch):
    without_promotions(monkeypatch, aten.zeros_like.default)
    given = torch.tensor([[0.5, -1.0, 2.0]] * 2), torch.tensor([[0, 0, 1], [0, 1, 1]]).bool()
    path = tmp_path / "m.mlpackage"
    coreml.convert(PaddingMask().eval(), path, given)
    assert not coreml.check(path, PaddingMask(), given).ok
    first = coreml.blame(path, PaddingMask(), given).first
    assert first is not None
    assert first.operator in ("aten.zeros_like.default", "aten.masked_fill.Scalar")
    assert "test_blame.py" in first.place


def test_an_integer_times_a_float_in_float16_is_named(tmp_path, monkeypatch):
    without_promotions(monkeypatch, aten.mul.Tensor, aten.mul.Scalar)
    steps = torch.tensor([3, 17, 901])
    path = tmp_path / "m.aimodel"
    coreai.convert(TimeEmbedding().eval(), path, steps)
    assert not coreai.check(path, TimeEmbedding(), steps).ok
    report = coreai.blame(path, TimeEmbedding(), steps)
    first = report.first
    assert first is not None
    assert first.operator == "aten.mul.Tensor"
    assert "in module 'embed'" in first.place
    assert "return steps * 0.0123" in first.place or "test_blame.py" in first.place
    assert 1e-5 < first.output.max_error < 1e-2
    assert "of the range" in str(report)
    assert "dB" in str(report)


@pytest.mark.parametrize("suffix", BACKENDS)
@pytest.mark.parametrize(
    ("wrong", "operator"),
    [
        ("transposed weight", "aten.linear.default"),
        ("padding", "aten.pad.default aten.conv2d.default"),
        ("inverted mask", "aten.masked_fill.Scalar"),
        ("missing scale", "aten.mul.Tensor"),
    ],
)
def test_the_operator_of_a_wrong_lowering_is_named(tmp_path, suffix, wrong, operator):
    """The file is of the right model, so that against the wrong one exactly this operator is wrong."""
    backend, path, given = BACKENDS[suffix], tmp_path / f"m.{suffix}", inputs(torch.float32)
    backend.convert(Block().eval(), path, given)
    assert backend.blame(path, Block().eval(), given).first is None
    first = backend.blame(path, Block(wrong).eval(), given).first
    assert first is not None
    assert first.operator in operator.split()  # Core AI has padding under other names in each mode
    assert all(each.within(None) for each in first.inputs)


@pytest.mark.parametrize(
    ("wrong", "name"), [("", None), ("relu", "relu"), ("linear", "linear_1"), ("matmul", "matmul")]
)
def test_values_that_a_package_has_without_their_transposes_are_not_blamed(tmp_path, wrong, name):
    """`relu` and `sigmoid` are computed without the transposes; a product in the wrong order is blamed all the same."""
    path, given = tmp_path / "m.mlpackage", torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    coreml.convert(Turned().eval(), path, given)
    first = coreml.blame(path, Turned(wrong).eval(), given).first
    assert (None if first is None else first.name) == name


def quantized_network(inputs):
    """Return a finalized W8A8 network of three layers; capturing names its nodes otherwise than exporting it again."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    )
    quantizer = Quantizer(network.eval(), QuantizerConfig())
    prepared = quantizer.prepare(inputs)
    with quantizer.calibration_mode():
        prepared(*inputs)
    return quantizer.finalize()


@pytest.mark.parametrize("suffix", BACKENDS)
def test_every_quantizer_of_a_finalized_model_is_compared_and_named_if_wrong(tmp_path, suffix):
    given = (torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)
    backend, path, model = BACKENDS[suffix], tmp_path / f"m.{suffix}", quantized_network(given)
    backend.convert(model, path, given)
    report = backend.blame(path, model, given)
    assert report.first is None
    compared = [each.operator for each in report.operators]
    program = torch.export.export(model, given)
    assert compared.count("coreai.quantize.default") == str(program.graph).count("coreai.quantize.default") == 4
    wrong = copy.deepcopy(model)
    scales = [buffer for buffer in wrong.buffers() if buffer.numel() == 1 and buffer.is_floating_point()]
    scales[2].mul_(1.01)  # of the second ReLU
    first = backend.blame(path, wrong, given).first
    assert first is not None
    assert first.operator == "coreai.quantize.default"
    assert not backend.check(path, wrong, given).ok
