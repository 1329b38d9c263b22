"""MobileNetV2 (Sandler et al., 2018, arXiv:1801.04381), with the usual parameter names."""

import torch
from torch import nn

from graphpress.tools.models.randomize import randomize

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
