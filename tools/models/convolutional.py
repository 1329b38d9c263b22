"""Convolutional networks, with the usual parameter names: chains, residual networks, MobileNetV2, VGG-11."""

from __future__ import annotations

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


# expansion, output channels, repeats, stride of the first repeat: table 2 of the paper
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class ConvBnRelu6(nn.Sequential):
    """A convolution that keeps the size (up to its stride), batch norm and relu6."""

    def __init__(self, inplanes: int, outplanes: int, kernel: int = 3, stride: int = 1, groups: int = 1):
        conv = nn.Conv2d(inplanes, outplanes, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outplanes), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand with a 1x1 convolution, filter depthwise, project back, and add the input where shapes agree."""

    def __init__(self, inplanes: int, outplanes: int, stride: int, expansion: int):
        super().__init__()
        hidden = inplanes * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [ConvBnRelu6(inplanes, hidden, kernel=1)]
        layers += [
            ConvBnRelu6(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outplanes, 1, bias=False),
            nn.BatchNorm2d(outplanes),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and inplanes == outplanes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, inplanes, height, width)` to `(batch, outplanes, height / stride, width / stride)`."""
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """A stem, inverted residuals, a 1x1 convolution, global average pooling and a classifier."""

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        layers: list[nn.Module] = [ConvBnRelu6(3, 32, stride=2)]
        inplanes = 32
        for expansion, planes, repeats, first_stride in _STAGES:
            for index in range(repeats):
                layers.append(InvertedResidual(inplanes, planes, first_stride if index == 0 else 1, expansion))
                inplanes = planes
        layers.append(ConvBnRelu6(inplanes, 1280, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, 3, height, width)` images to `(batch, num_classes)` logits."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v2(seed: int = 0) -> MobileNetV2:
    """MobileNetV2 at width 1, 3.5M parameters, for 224x224 images."""
    return randomize(MobileNetV2(), seed)


_POOL = 0
_LAYERS = (64, _POOL, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL, 512, 512, _POOL)


class VGG(nn.Module):
    """Convolutions and in-place relus with pooling between, then three linear layers."""

    def __init__(self, width: float, hidden: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        inplanes = 3
        for planes in _LAYERS:
            if planes == _POOL:
                layers.append(nn.MaxPool2d(2, 2))
                continue
            planes = int(planes * width)
            layers += [nn.Conv2d(inplanes, planes, 3, padding=1), nn.ReLU(inplace=True)]
            inplanes = planes
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(
            nn.Linear(inplanes, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, 3, height, width)` images to `(batch, num_classes)` logits."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg11(width: float = 0.25, hidden: int = 128, num_classes: int = 10, seed: int = 0) -> VGG:
    """VGG-11 for images of 32x32 or more, 8 convolutions and 3 linear layers.

    `width` scales the channels (1.0 is the paper's) and `hidden` sizes the linear layers (4096 in the paper);
    the defaults keep the paper's structure at 0.6M parameters.
    """
    return randomize(VGG(width, hidden, num_classes), seed)
