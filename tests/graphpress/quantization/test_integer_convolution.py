from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.quantization import Quantizer
from graphpress.quantization.finalized_ops import IntegerConvolution


class Stack(nn.Module):
    def __init__(self, depth: int = 8, channels: int = 64) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.grouped = nn.Conv2d(channels, channels, 3, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        for convolution in self.body:
            x = x + torch.relu(convolution(x))
        return self.grouped(x)


class Moved(nn.Module):
    """Between convolutions, ops that move values: pooling, padding, a shuffle and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.second = nn.Conv2d(64, 64, 3)
        self.third = nn.Conv2d(16, 64, 3)
        self.last = nn.Conv2d(128, 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.first(x), 2)
        batch, channels, *size = x.shape  # numbers of the graph when the batch is any
        x = x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(batch, channels, *size)
        x = self.second(nn.functional.pad(x, (1, 2, 1, 2)))
        x = self.third(nn.functional.pixel_shuffle(x, 2)).relu()
        return self.last(torch.cat([x, x.flip(-1)], 1))


def finalized(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    quantizer = Quantizer(model)
    prepared = quantizer.prepare(inputs)
    with quantizer.calibration_mode():
        prepared(*inputs)
        prepared(*inputs)
    return quantizer.finalize()


@pytest.fixture(scope="module")
def stack() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 40, 40)
    return finalized(Stack().eval(), (x,)), x


def test_every_convolution_is_computed_on_codes(stack: tuple[nn.Module, torch.Tensor]) -> None:
    assert sum(isinstance(m, IntegerConvolution) for m in stack[0].modules()) == 10


def test_torch_and_the_runtime_agree_to_the_last_bit(stack: tuple[nn.Module, torch.Tensor], tmp_path: Path) -> None:
    model, x = stack
    coreai.convert(model, tmp_path / "stack.aimodel", (x,))
    with coreai.load(tmp_path / "stack.aimodel") as asset:
        for seed in range(2):
            other = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
            assert torch.equal(asset(other), model(other))


def test_codes_are_followed_through_ops_that_move_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 40, 40)
    model = finalized(Moved().eval(), (x,))
    assert sum(isinstance(m, IntegerConvolution) for m in model.modules()) == 4
    coreai.convert(model, tmp_path / "moved.aimodel", (x,))
    with coreai.load(tmp_path / "moved.aimodel") as asset:
        for seed in range(2):
            other = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
            assert torch.equal(asset(other), model(other))


def test_float_sums_alone_would_not_agree(
    stack: tuple[nn.Module, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = stack
    exact = model(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # what an exported program computes
    assert not torch.equal(exact, model(x))


def test_a_sum_too_long_for_float32_is_split() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 512, 6, 6) * 10
    convolution = nn.Conv2d(512, 4, 3, bias=False).eval()
    with torch.no_grad():
        convolution.weight.fill_(1.0)
    model = finalized(convolution, (x,))
    (layer,) = (m for m in model.modules() if isinstance(m, IntegerConvolution))
    with torch.no_grad():
        quantize = next(n for n in model.graph.nodes if "quantize.default" in str(n.target))
        scale = next(b for n, b in model.named_buffers() if n.endswith(quantize.args[1].target.rpartition(".")[2]))
        codes = (x / scale).round().clamp(-128, 127)
        weight = layer.codes(*(b for n, b in model.named_buffers() if "quantized" in n))
        expected = torch.nn.functional.conv2d(codes.double(), weight.double())
        assert expected.max() > 2**24
        pieces, _ = layer._split(weight)
        assert len(pieces) > 1
        total = sum(
            torch.nn.functional.conv2d(c, w).double()
            for c, w in zip(codes.split(pieces[0].shape[1], 1), pieces, strict=True)
        )
    assert torch.equal(total, expected)
