import copy
import math

import pytest
import torch
from torch import nn

from graphpress.backends.coreai import check, convert

from .modules import coreai, quantized_net


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "m.aimodel"
    model = quantized_net()
    convert(model, path, torch.randn(1, 3, 24, 24))
    return path, model


def noise(seed=0):
    return torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_quantized_activations_are_equal_once_sums_are_taken_in_the_runtimes_order(net):
    path, model = net
    for seed in range(3):
        report = check(path, model, noise(seed))
        assert report.ok, report
        (output,) = report.outputs
        assert output.max_error == 0 or output.max_error_in_runtime_arithmetic == 0


def test_ties_that_fall_the_other_way_are_explained(tmp_path):
    class Tie(nn.Module):
        """Sums whose rounding, and with it the code, depends on the order of additions."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1000, 1, 1, bias=False)
            nn.init.constant_(self.conv.weight, 0.1)

        def forward(self, x):
            return torch.round((self.conv(x) - 100.00000149) * 1e7)

    x = torch.ones(1, 1000, 1, 2)
    x[..., 1] = 1.001
    convert(Tie().eval(), tmp_path / "m.aimodel", x)
    report = check(tmp_path / "m.aimodel", Tie().eval(), x, tolerance=1e-9)
    (output,) = report.outputs
    assert output.max_error > 1e-9
    assert output.max_error_in_runtime_arithmetic == 0
    assert report.ok
    assert "rounding ties" in str(report)


def test_a_wrong_weight_is_found_and_does_not_raise(net):
    path, model = net
    wrong = copy.deepcopy(model)
    wrong[1].weight_data[0, 0, 0, 0] += 5
    report = check(path, wrong, noise())
    assert not report.ok
    assert report.max_error > 1e-3
    assert "MISMATCH" in str(report)
    assert "not explained by the order of additions" in str(report)


def test_other_shapes_or_counts_of_outputs_are_mismatches(net):
    path, model = net

    class Twice(nn.Module):
        def forward(self, x):
            return model(x), x

    cropped = nn.Sequential(model, nn.ConstantPad2d(-1, 0.0))
    report = check(path, cropped, noise())
    assert not report.ok
    assert math.isinf(report.max_error)
    report = check(path, Twice(), noise())
    assert not report.ok
    assert "1 outputs, but torch gives 2" in str(report)


@pytest.mark.parametrize(("dtype", "minval"), [(torch.int4, None), (torch.uint4, -2.1)])
def test_four_bit_activations_are_checked_though_torch_cannot_run_them(tmp_path, dtype, minval):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor([0.3]))
            self.register_buffer("minval", None if minval is None else torch.tensor([minval]))

        def forward(self, x):
            codes = coreai.quantize(x, self.scale, dtype, None, self.minval, 0)
            return coreai.dequantize(codes, self.scale, None, self.minval, 0, dtype, None)

    x = torch.linspace(-4, 4, 401)
    convert(Model(), tmp_path / "m.aimodel", x)
    report = check(tmp_path / "m.aimodel", Model(), x)
    assert report.ok, report
    assert report.max_error == 0


def test_nested_and_named_inputs_reach_the_asset(tmp_path):
    class Nested(nn.Module):
        def forward(self, pair, *, scale):
            return {"sum": (pair["a"] + pair["b"]) * scale, "nan": pair["a"] * float("nan")}

    class Named(nn.Module):
        def forward(self, a, b):
            return a - b

    pair = {"a": torch.randn(3), "b": torch.randn(3)}
    nested = {"pair": pair, "scale": torch.tensor(2.0)}
    convert(Nested(), tmp_path / "a.aimodel", nested)
    assert check(tmp_path / "a.aimodel", Nested(), nested).ok
    convert(Named(), tmp_path / "b.aimodel", {"b": pair["b"], "a": pair["a"]})
    assert check(tmp_path / "b.aimodel", Named(), {"b": pair["b"], "a": pair["a"]}).ok
