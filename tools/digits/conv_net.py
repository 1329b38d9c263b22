"""A network of depthwise-separable conv-bn-relu blocks for 8x8 images, after MobileNet (arXiv 1704.04861)."""

from __future__ import annotations

import torch
from torch import nn


class ConvNet(nn.Module):
    """`[N, 1, 8, 8]` images to `[N, 10]` logits: a stem, separable blocks, two of them halving, and a linear head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = _layer(1, width)
        self.blocks = nn.Sequential(*(Separable(width, stride) for stride in (1, 2, 1, 2)))
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        features: torch.Tensor = self.blocks(self.stem(images))
        logits: torch.Tensor = self.head(features.mean((2, 3)))
        return logits


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, each with norm and relu: `[N, width, H, W]`, halved by a stride of 2."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _layer(width, width, stride=stride, groups=width)
        self.pointwise = _layer(width, width, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of the block."""
        features: torch.Tensor = self.pointwise(self.depthwise(x))
        return features


def _layer(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
