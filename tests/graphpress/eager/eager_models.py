"""Models and configs that the tests of eager mode share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from graphpress.quantization import ModuleQuantizerConfig, Quantizer, QuantizerConfig
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


class Runs(nn.Module):
    """A module whose forward is a function of the test's, with a parameter and a buffer."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(random(8, 8))
        self.register_buffer("table", random(8, seed=1))
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *args):
        return self.function(self, *args)


class ConvNet(nn.Module):
    """Convolution, norm, in-place activation and sum, pool, linear, a product with a parameter, attention."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 8)
        self.mixing = nn.Parameter(torch.randn(8, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.norm(self.conv(x))
        y += y * 2
        y = self.relu(y)
        y = self.fc(F.adaptive_avg_pool2d(y, 2).flatten(2).transpose(1, 2)) @ self.mixing
        return torch.sigmoid(self.attention(y, y, y, need_weights=False)[0])


class Branching(nn.Module):
    """A path that the data choose, and a loop whose length they choose."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.up = nn.Linear(8, 8)
        self.down = nn.Linear(8, 8)

    def forward(self, x):
        x = self.fc(x)
        if x.mean() > 0:
            x = self.up(x) * x
        else:
            x = self.down(x)
            x = x + 1
        while x.norm() > 4:
            x = x * 0.5
        return x + x


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make):
    """A model with the same weights every time, in eval mode."""
    torch.manual_seed(0)
    return make().eval()


def eager(*args, **module_config):
    """An eager config: the default one, or with a global config made of the arguments."""
    if args:
        return QuantizerConfig(execution_mode="eager", global_config=args[0])
    if module_config:
        return QuantizerConfig(execution_mode="eager", global_config=ModuleQuantizerConfig(**module_config))
    return QuantizerConfig(execution_mode="eager")


def prepared(model, inputs, config=None, **options):
    """The quantizer and the prepared model."""
    quantizer = Quantizer(model, config or eager())
    return quantizer, quantizer.prepare(inputs if isinstance(inputs, tuple) else (inputs,), **options)


def names(model):
    """The names of all fake-quantizers."""
    return [m.name for m in model.modules() if isinstance(m, FakeQuantizeImplBase)]


def calibrated(model, inputs, config=None):
    quantizer, module = prepared(model, inputs, config)
    with quantizer.calibration_mode():
        for _ in range(2):
            module(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    return quantizer, module
