"""Batch norms in saved files: nothing but a multiply-add is left of one, and only where no layer can absorb it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig

BACKENDS = {"aimodel": coreai, "mlpackage": coreml}
X = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
OF_A_NORM = ("sqrt", "rsqrt", "broadcasting_sub", "broadcasting_divide", "invoke")


class Norms(nn.Module):
    """One norm after each kind of layer, and one that follows a sum and precedes an activation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.after_conv = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.up, self.after_up = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.BatchNorm2d(6)
        self.alone = nn.BatchNorm2d(8)
        self.linear, self.after_linear = nn.Linear(6, 8), nn.BatchNorm1d(8)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.normal_(norm.bias)

    def forward(self, x):
        y = torch.relu(self.alone(self.after_conv(self.conv(x)).relu() + x))
        return self.after_linear(self.linear(self.after_up(self.up(y)).mean((2, 3))))


def subject(is_palettized, dtype):
    model = Norms().eval().to(dtype)
    if not is_palettized:
        return model
    palettizer = KMeansPalettizer(model, KMeansPalettizerConfig())
    palettizer.prepare((X.to(dtype),))
    return palettizer.finalize()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("is_palettized", [True, False], ids=["tables", "floats"])
@pytest.mark.parametrize("suffix", BACKENDS)
def test_norms_are_parts_of_the_weights_and_outputs_are_those_of_torch(suffix, is_palettized, dtype, tmp_path):
    model, path = subject(is_palettized, dtype), tmp_path / f"m.{suffix}"
    info = BACKENDS[suffix].convert(model, path, (X.to(dtype),))
    assert not {*info.operations} & {*OF_A_NORM}
    left = {"aimodel": "broadcasting_mul", "mlpackage": "batch_norm"}[suffix]
    assert info.operations[left] == 1
    report = BACKENDS[suffix].check(path, model, (X.to(dtype),))
    assert report.ok, report
    assert BACKENDS[suffix].blame(path, model, (X.to(dtype),)).first is None


def test_a_target_without_scales_beside_tables_keeps_the_norms(tmp_path):
    model, path = subject(True, torch.float32), tmp_path / "m.mlpackage"
    info = coreml.convert(model, path, (X,), target="iOS16")
    assert info.operations["batch_norm"] == 4
    assert coreml.check(path, model, (X,)).ok
