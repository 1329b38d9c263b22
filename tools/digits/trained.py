"""The packaged weights of the digits classifiers; `python -m graphpress.tools.train_digits` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safetensors import safe_open
from torch import nn

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.tools.digits.conv_net import ConvNet
from graphpress.tools.digits.transformer import Transformer

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
