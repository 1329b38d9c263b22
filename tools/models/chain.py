"""Conv-bn-relu chains of any length: what shows whether a pass takes linear time."""

import torch
from torch import nn

from graphpress.tools.models.randomize import randomize


class ConvBnRelu(nn.Module):
    """A 3x3 convolution without bias, its batch norm and a relu."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, channels, height, width)`."""
        return self.relu(self.bn(self.conv(x)))


def conv_bn_relu_chain(blocks: int = 50, channels: int = 8, seed: int = 0) -> nn.Sequential:
    """Return `blocks` conv-bn-relu blocks in a row; the input is `(batch, channels, height, width)`."""
    return randomize(nn.Sequential(*(ConvBnRelu(channels) for _ in range(blocks))), seed)
