"""The models by name, each with example inputs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs
import torch
from torch import nn

from graphpress.tools.models.convolutional import conv_bn_relu_chain, mobilenet_v2, resnet50, small_resnet, vgg11
from graphpress.tools.models.transformers import gpt, gpt_small, small_transformer, vit_small


@attrs.frozen
class ModelEntry:
    """A factory of a model in eval mode, and positional example inputs, batch first."""

    build: Callable[[], nn.Module]
    example_inputs: Callable[[], tuple[torch.Tensor, ...]]


def _image(channels: int, size: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Return a constant normal float32 image `(1, channels, size, size)`."""
    return lambda: (torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(1)),)


def _tokens(vocabulary: int, length: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Return constant uniform int64 ids `(1, length)`."""
    return lambda: (torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(1)),)


MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        "conv_bn_relu_chain": ModelEntry(conv_bn_relu_chain, _image(8, 16)),
        "gpt": ModelEntry(gpt, _tokens(8192, 64)),
        "gpt_small": ModelEntry(gpt_small, _tokens(256, 16)),
        "mobilenet_v2": ModelEntry(mobilenet_v2, _image(3, 224)),
        "resnet50": ModelEntry(resnet50, _image(3, 224)),
        "small_resnet": ModelEntry(small_resnet, _image(3, 32)),
        "small_transformer": ModelEntry(small_transformer, _tokens(100, 12)),
        "vgg11": ModelEntry(vgg11, _image(3, 32)),
        "vit_small": ModelEntry(vit_small, _image(3, 224)),
    }
)
