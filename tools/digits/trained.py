"""The digits of scikit-learn, and the packaged weights of the classifiers trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import attrs
import torch
from safetensors import safe_open
from torch import nn

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.tools.digits.networks import ConvNet, Transformer

TEST_COUNT = 897


@attrs.frozen(eq=False)
class Digits:
    """Images float32 `[N, 1, 8, 8]` in [0, 1] and labels int64 `[N]`: 900 to train with and 897 held out."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


@cache
def digits() -> Digits:
    """The data, always split in the same way. The tensors are shared: leave them as they are."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = torch.tensor(loaded.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(loaded.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_COUNT], order[TEST_COUNT:]
    return Digits(images[train], labels[train], images[test], labels[test])


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of `images` that `model` classifies as `labels`, in [0, 1]."""
    predicted: torch.Tensor = model(images).argmax(1)
    return (predicted == labels).float().mean().item()


NETWORKS: Mapping[str, type[nn.Module]] = MappingProxyType({"conv_net": ConvNet, "transformer": Transformer})


class UnknownNetworkError(GraphpressError, KeyError):
    """A name that no network of digits has."""

    __str__ = Exception.__str__


def weights_file(name: str) -> Path:
    """Where the weights of the network called `name` are."""
    return Path(__file__).with_name(f"{name}.safetensors")


def load_trained(name: str) -> nn.Module:
    """The network called `name` with its packaged weights, in float32 and eval mode.

    Raises:
        UnknownNetworkError: when there is none of that name.
    """
    model = _network(name)
    with safe_open(weights_file(name), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    # float16 holds the weights; what counts batches is an integer.
    model.load_state_dict({key: t.float() if t.is_floating_point() else t for key, t in state.items()})
    return model.eval()


def training_record(name: str) -> dict[str, str]:
    """How the packaged weights came about: epochs, seed and the accuracy on held-out images."""
    _network(name)
    with safe_open(weights_file(name), framework="pt") as file:
        return dict(file.metadata())


def _network(name: str) -> nn.Module:
    if name not in NETWORKS:
        raise UnknownNetworkError(f"no network {name!r}{suggestion(name, NETWORKS)}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name]()
