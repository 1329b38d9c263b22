"""The tolerance of `check`: no false alarm in 16 bits, and wrong lowerings are mismatches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.comparison import OutputCheck
from graphpress.backends.rounding import PerturbedRounding

BACKENDS = {"coreai": (coreai, "aimodel"), "coreml": (coreml, "mlpackage")}


class Block(nn.Module):
    """Convolutions, a pool, attention with a mask, a norm; `wrong` names a deliberate mistake in it."""

    def __init__(self, wrong: str = "", channels: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wrong = wrong
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.mix = nn.Linear(channels, channels)
        nn.init.normal_(self.mix.weight, std=0.5)  # the attention depends on it
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, channels)

    def forward(self, x, mask):
        is_wrong = self.wrong.__eq__
        x = F.pad(x, (1, 1, 1, 1), mode="replicate" if is_wrong("padding") else "constant")
        x = F.relu(F.conv2d(x, self.stem.weight, self.stem.bias))
        x = F.avg_pool2d(self.up(x), 2) - x
        tokens = x.flatten(2).transpose(1, 2)
        mix = self.mix.weight.t() if is_wrong("transposed weight") else self.mix.weight
        keys = F.linear(tokens, mix, self.mix.bias)
        scale = 1.0 if is_wrong("missing scale") else tokens.shape[-1] ** -0.5
        scores = tokens @ keys.transpose(1, 2) * scale
        hidden = ~mask if is_wrong("inverted mask") else mask
        weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)
        return self.head(self.norm(weights @ tokens + tokens))


WRONG = ("transposed weight", "padding", "inverted mask", "missing scale")


def inputs(dtype):
    torch.manual_seed(1)
    return torch.randn(2, 3, 6, 6).to(dtype), torch.arange(36) % 4 == 3


CASES = [(dtype, "coreai") for dtype in (torch.float32, torch.float16, torch.bfloat16)] + [(torch.float32, "coreml")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def saved(request, tmp_path_factory):
    dtype, name = request.param
    backend, suffix = BACKENDS[name]
    path = tmp_path_factory.mktemp("saved") / f"m.{suffix}"
    backend.convert(Block().eval().to(dtype), path, inputs(dtype))
    return backend, path, dtype


def test_a_correct_file_of_any_dtype_is_no_mismatch(saved):
    backend, path, dtype = saved
    report = backend.check(path, Block().eval().to(dtype), inputs(dtype))
    assert report.ok, report


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_lowering_is_a_mismatch_in_every_dtype(saved, wrong):
    backend, path, dtype = saved
    report = backend.check(path, Block(wrong).eval().to(dtype), inputs(dtype))
    assert not report.ok, report
    assert "rounding explains" in str(report)


def test_a_given_tolerance_is_the_only_one(saved):
    backend, path, dtype = saved
    report = backend.check(path, Block("missing scale").eval().to(dtype), inputs(dtype), tolerance=10.0)
    assert report.ok
    assert report.layers is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_product_of_random_signs_deviates_as_its_roundings_do(dtype):
    """Sequential sums in the dtype, as a runtime computes them, are within the spread of the model of roundings."""
    torch.manual_seed(0)
    terms = 256
    a, b = torch.randn(64, terms).to(dtype), torch.randn(terms, 64).to(dtype)
    total = torch.zeros(64, 64, dtype=dtype)
    for k in range(terms):
        total += a[:, k : k + 1] * b[k]
    exact = a.double() @ b.double()
    spread = (total.double() - exact).square().mean().sqrt()
    with PerturbedRounding(0):
        perturbed = a.mm(b)
    modelled = (perturbed.double() - exact).square().mean().sqrt()
    assert spread / 1.5 < modelled < 6 * spread


def test_moved_and_selected_values_are_not_perturbed():
    x = torch.randn(4, 6)
    with PerturbedRounding(0):
        moved = torch.cat([x.t().reshape(4, 6).relu(), x.abs().clamp(0.5, 1.0), F.pad(x, (1, -1))])
    assert torch.equal(moved, torch.cat([x.t().reshape(4, 6).relu(), x.abs().clamp(0.5, 1.0), F.pad(x, (1, -1))]))


def test_units_are_of_the_range_the_root_mean_square_and_the_dtype():
    from graphpress.backends.comparison import compare_outputs

    expected = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float16)
    found = compare_outputs("y", expected + torch.tensor([0, 0, 2**-9], dtype=torch.float16), expected)
    assert isinstance(found, OutputCheck)
    assert found.max_error == 2**-9 / 4
    assert found.steps == 1.0  # neighbors of 3 are 2**-9 apart
    assert found.decibels == pytest.approx(10 * torch.tensor(10 * 2**18).log10().item(), abs=1e-6)
