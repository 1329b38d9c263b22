"""VGG-11 (Simonyan and Zisserman, 2014, arXiv:1409.1556), without batch norm, every relu in place."""

import torch
from torch import nn

from graphpress.tools.models.randomize import randomize

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
