"""Constants of a model are computed when it is converted, in every dtype, and values are those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from graphpress.backends import coreai

pytestmark = pytest.mark.slow

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class ShiftedScale(nn.Module):
    """An RMS norm whose weight is an offset from one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 0.5, 16))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * (1.0 + self.weight.float())).type_as(x)


class Positions(nn.Module):
    """A scale computed from positions, which no constant of the model enters."""

    def forward(self, x):
        return x * torch.cos(torch.arange(x.shape[-1]) * 0.5 + 1).to(x.dtype)


class EvenPool(nn.Module):
    """A mean pool whose windows end at the edge, and one that divides by the counts of its windows."""

    def forward(self, x):
        return F.avg_pool2d(x[..., :4, :4], 2, 2, ceil_mode=True, count_include_pad=False), F.avg_pool2d(
            x, 2, 2, ceil_mode=True, count_include_pad=False
        )


def tracked_instance_norm():
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return norm


IMAGE, ROWS = (2, 4, 5, 5), (3, 16)
# The operators that remain, and the number of casts beside them in 16 bits.
CASES = {
    "shifted scale": (
        ShiftedScale,
        ROWS,
        {"broadcasting_mul": 2, "broadcasting_pow": 1, "reduce_mean": 1, "broadcasting_add": 1, "rsqrt": 1},
        2,
    ),
    "positions": (Positions, ROWS, {"broadcasting_mul": 1}, 0),
    "instance norm": (tracked_instance_norm, IMAGE, {"broadcasting_mul": 1, "broadcasting_add": 1}, 0),
    "convolution": (lambda: nn.Conv2d(4, 6, 3), IMAGE, {"conv2d": 1, "broadcasting_add": 1}, 0),
    "transposed convolution": (
        lambda: nn.ConvTranspose2d(4, 6, 3),
        IMAGE,
        {"conv_transpose2d": 1, "broadcasting_add": 1},
        0,
    ),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(16, 8)),
        ROWS,
        {"broadcasting_batch_matmul": 1, "broadcasting_add": 1},
        0,
    ),
    "spectral norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(16, 8)),
        ROWS,
        {"broadcasting_batch_matmul": 1, "broadcasting_add": 1},
        0,
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_no_constant_is_computed_at_run_time(name, dtype, tmp_path):
    build, shape, operations, casts = CASES[name]
    torch.manual_seed(0)
    model, x = build().eval().to(dtype), torch.randn(shape).to(dtype)
    expected = dict(operations)
    if dtype is not torch.float32:
        expected |= {"cast": casts} if casts else {}
        expected |= {"broadcasting_sub": 1} if name == "instance norm" else {}
    info = coreai.convert(model, tmp_path / "m.aimodel", (x,))
    assert dict(info.operations) == expected
    report = coreai.check(tmp_path / "m.aimodel", model, (x,))
    assert report.ok, report


def test_the_counts_of_pooled_windows_are_constants_and_not_there_when_equal(tmp_path):
    x = torch.randn(IMAGE)
    info = coreai.convert(EvenPool(), tmp_path / "m.aimodel", (x,))
    plain = coreai.convert(nn.AvgPool2d(2), tmp_path / "plain.aimodel", (x,))
    assert info.operations["sum_pool_2d"] == 2 * plain.operations["sum_pool_2d"]
    assert info.operations["broadcasting_divide"] == 2 * plain.operations["broadcasting_divide"] + 1
    assert coreai.check(tmp_path / "m.aimodel", EvenPool(), (x,)).ok


def test_a_mask_of_positions_is_left_to_the_converter(tmp_path):
    class Causal(nn.Module):
        def forward(self, x):
            hidden = torch.arange(x.shape[-1]) > torch.arange(x.shape[-2])[:, None]
            return x.masked_fill(hidden, -1.0)

    x = torch.randn(ROWS)
    coreai.convert(Causal(), tmp_path / "m.aimodel", (x,))
    assert coreai.check(tmp_path / "m.aimodel", Causal(), (x,)).ok


def test_a_weight_is_not_stored_in_another_layout_nor_in_more_bytes(tmp_path):
    class Widened(nn.Linear):
        def forward(self, x):
            return x.float() @ self.weight.float().transpose(0, 1)

    model, x = Widened(400, 300, bias=False).bfloat16(), torch.randn(2, 400).bfloat16()
    info = coreai.convert(model, tmp_path / "m.aimodel", (x,))
    assert info.weight_bytes < 1.01 * 2 * 400 * 300
    assert info.operations["transpose"] == 1


def test_buffers_that_the_model_writes_are_no_constants(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(4))

        def forward(self, x):
            self.count.add_(1)
            return x * (self.count + 1)

    info = coreai.convert(Counting(), tmp_path / "m.aimodel", (torch.ones(4),))
    assert info.operations["broadcasting_add"] == 2
    assert len(info.function().states) == 1
