"""`blame`: the operator that a wrong lowering changed is named, with its place and its errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml, promotion

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
