"""Constants of a model are computed when it is converted, in every dtype, and values are those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
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
