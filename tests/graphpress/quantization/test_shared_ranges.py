"""Ranges of quantizers that several points of a graph share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.quantization import Quantizer, QuantizerConfig
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


class LinearThenMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x):
        return self.head(self.linear(x).mean(1))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x):
        x = self.stem(x)
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return self.head(x * self.excite(self.squeeze(pooled).relu()).sigmoid())


class WideBesideNarrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return torch.cat([self.left(x) * 10, self.right(x)], 1)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(LinearThenMean, (4, 10, 16)), (SqueezeExcite, (2, 3, 16, 16)), (WideBesideNarrow, (2, 3, 8, 8))],
)
def test_a_shared_range_is_no_narrower_than_the_mean_range_of_what_it_covers(model, shape):
    torch.manual_seed(0)
    batches = [torch.randn(shape) for _ in range(6)]
    model = model().eval()
    quantizer = Quantizer(model, QuantizerConfig())
    prepared = quantizer.prepare((batches[0],))
    seen = {}

    def watch(module, args, output):
        seen.setdefault(module.name, []).append(float(args[0].abs().max()))

    with quantizer.calibration_mode():
        for module in prepared.modules():
            if isinstance(module, FakeQuantizeImplBase) and not module.is_state:
                module.register_forward_hook(watch)
        for batch in batches:
            prepared(batch)
    shared = 0
    for module in prepared.modules():
        values = seen.get(getattr(module, "name", None), ())
        points = len(values) // len(batches)
        if points < 2 or not hasattr(module.calculator, "running_max"):
            continue
        shared += 1
        union = [max(values[run * points : (run + 1) * points]) for run in range(len(batches))]
        stored = max(-float(module.calculator.running_min), float(module.calculator.running_max))
        assert stored >= 0.999 * min(union)
    assert shared


def test_a_shared_quantizer_clips_no_more_than_the_widest_range_would():
    torch.manual_seed(0)
    model, batches = SqueezeExcite().eval(), [torch.randn(2, 3, 16, 16) for _ in range(6)]
    wanted = [model(batch) for batch in batches]
    noise = {}
    for key in ("moving_average", "global_minmax"):
        changed = QuantizerConfig.from_dict(_with_calculator(QuantizerConfig().to_dict(), key))
        quantizer = Quantizer(model, changed)
        prepared = quantizer.prepare((batches[0],))
        with quantizer.calibration_mode():
            for batch in batches:
                prepared(batch)
        noise[key] = sum(float((prepared(b) - w).detach().square().sum()) for b, w in zip(batches, wanted, strict=True))
    assert noise["moving_average"] < 2 * noise["global_minmax"]  # averaging the ranges of the points gave 14 times


def _with_calculator(config, key):
    """`config`, plain data, with `key` as the calculator of every activation."""
    if isinstance(config, dict):
        return {
            name: _with_calculator({**value, "*": {**value["*"], "qparam_calculator_cls": key}}, key)
            if name in ("op_input_spec", "op_output_spec") and value
            else _with_calculator(value, key)
            for name, value in config.items()
        }
    return config
