"""Residual networks (He et al., 2015, arXiv:1512.03385), with the usual parameter names."""

import torch
from torch import nn

from graphpress.tools.models.randomize import randomize


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int, inplace: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inplanes, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, inplanes, height, width)` to `(batch, planes, height / stride, width / stride)`."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, and a shortcut; the stride is on the 3x3 one."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int, inplace: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace)
        self.downsample = _shortcut(inplanes, planes * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, inplanes, height, width)` to `(batch, 4 planes, height / stride, width / stride)`."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling and a classifier."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        stages: list[tuple[int, int]],
        stem: nn.Sequential,
        num_classes: int,
        inplace: bool,
    ):
        super().__init__()
        self.stem = stem
        inplanes = next(m.out_channels for m in stem.modules() if isinstance(m, nn.Conv2d))
        for number, (planes, depth) in enumerate(stages, start=1):
            blocks = []
            for index in range(depth):
                stride = 2 if index == 0 and number > 1 else 1
                blocks.append(block(inplanes, planes, stride, inplace))
                inplanes = planes * block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self._stage_names = [f"layer{number}" for number in range(1, len(stages) + 1)]
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inplanes, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, 3, height, width)` images to `(batch, num_classes)` logits."""
        x = self.stem(x)
        for name in self._stage_names:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet50(inplace: bool = False, seed: int = 0) -> ResNet:
    """ResNet-50, 25.6M parameters, for 224x224 images; `inplace` chooses in-place relus."""
    stem = nn.Sequential()
    stem.add_module("conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
    stem.add_module("bn1", nn.BatchNorm2d(64))
    stem.add_module("relu", nn.ReLU(inplace))
    stem.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    stages = [(64, 3), (128, 4), (256, 6), (512, 3)]
    return randomize(ResNet(Bottleneck, stages, stem, 1000, inplace), seed)


def small_resnet(inplace: bool = False, seed: int = 0) -> ResNet:
    """Two stages of basic blocks, 0.08M parameters, for 32x32 images; `inplace` chooses in-place relus."""
    stem = nn.Sequential()
    stem.add_module("conv1", nn.Conv2d(3, 16, 3, 1, 1, bias=False))
    stem.add_module("bn1", nn.BatchNorm2d(16))
    stem.add_module("relu", nn.ReLU(inplace))
    return randomize(ResNet(BasicBlock, [(16, 2), (32, 2)], stem, 10, inplace), seed)


def _shortcut(inplanes: int, outplanes: int, stride: int) -> nn.Sequential | None:
    """A strided 1x1 convolution with batch norm where the shapes differ, nothing where they agree."""
    if stride == 1 and inplanes == outplanes:
        return None
    return nn.Sequential(nn.Conv2d(inplanes, outplanes, 1, stride, bias=False), nn.BatchNorm2d(outplanes))
