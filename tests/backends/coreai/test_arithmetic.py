"""The runtime's arithmetic, reproduced: equal in every bit, on real assets."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphpress.backends.coreai import convert, load
from graphpress.backends.coreai.arithmetic import RuntimeArithmetic


class Everything(nn.Module):
    """Many operators side by side, so that one conversion covers them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, dilation=2)
        self.flat = nn.Conv1d(8, 5, 3)
        self.linear = nn.Linear(9, 7)
        self.norm = nn.LayerNorm(9)
        self.groups = nn.GroupNorm(4, 8)

    def forward(self, x):
        rows = x[:, :, 0]
        return {
            "conv2d": self.conv(x),
            "grouped": self.grouped(x),
            "conv1d": self.flat(rows),
            "linear": self.linear(x),
            "matmul": rows @ rows.transpose(1, 2),
            "attention": F.scaled_dot_product_attention(x, x * 0.5, x + 1),
            "layer norm": self.norm(x),
            "group norm": self.groups(x),
            "mean": x.mean((2, 3)),
            "sum": x.sum(1, keepdim=True),
            "pool": F.avg_pool2d(x, 3),
            "softmax": x.softmax(-1),
            "sigmoid": x.sigmoid(),
            "silu": F.silu(x),
            "elu": F.elu(x),
            "hardswish": F.hardswish(x),
            "sqrt": x.abs().sqrt(),
            "log": (x.abs() + 0.1).log(),
            "tanh": x.tanh(),
            "gelu": F.gelu(x),
        }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("ops") / "m.aimodel"
    model, x = Everything().eval(), torch.randn(2, 8, 9, 9)
    convert(model, path, x)
    with load(path) as loaded, torch.no_grad():
        stored, plain = loaded(x), model(x)
        with RuntimeArithmetic():
            ours = model(x)
    return {name: (stored[at], ours[name], plain[name]) for at, name in enumerate(plain)}


@pytest.mark.parametrize("name", list(Everything()(torch.zeros(1, 8, 9, 9))))
def test_the_runtime_is_matched_bit_for_bit(results, name):
    stored, ours, _ = results[name]
    # The runtime's expf itself is off by one unit in about one value of a thousand.
    allowed = 4 if name in ("sigmoid", "silu", "elu", "softmax", "attention") else 0
    assert (stored != ours).sum() <= allowed
    torch.testing.assert_close(stored, ours, rtol=1e-6, atol=1e-6)


def test_torch_alone_does_not_match_bit_for_bit(results):
    differing = [name for name, (stored, _, plain) in results.items() if not torch.equal(stored, plain)]
    assert {"conv2d", "linear", "matmul", "mean"} <= set(differing)


class Products(nn.Module):
    """A layer on a sequence, whose weight has no batch dim, and a product of two batches."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 16, bias=False)

    def forward(self, x):
        return self.layer(x), torch.bmm(x, x.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_16_bits_are_matched_bit_for_bit(dtype, tmp_path):
    torch.manual_seed(0)
    model, x = Products().to(dtype).eval(), torch.randn(2, 8, 64).to(dtype)
    convert(model, tmp_path / "m.aimodel", x)
    with load(tmp_path / "m.aimodel") as loaded, torch.no_grad():
        stored, plain = loaded(x), model(x)
        with RuntimeArithmetic():
            ours = model(x)
    assert all(torch.equal(*each) for each in zip(stored, ours, strict=True))
    assert not torch.equal(stored[0], plain[0]), "torch adds in float32"
