"""Architectures of `transformers` and `timm`, from a class name and a small config."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphpress.tools.zoo.entry import Inputs, ZooModel
from graphpress.tools.zoo.torchvision_schemas import declare

VOCABULARY = 128
LENGTH = 16
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}


class Named(nn.Module):
    """Calls a model with positional tensors as arguments of these names."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *args: Tensor) -> Any:
        """Return what the model returns."""
        return self.model(**dict(zip(self.names, args, strict=True)))


def from_config(kind: str, config: str, names: tuple[str, ...] = (), **options: Any) -> Callable[[], nn.Module]:
    """Return a factory of `transformers.<kind>` with `transformers.<config>(**options)`."""

    def create() -> nn.Module:
        declare()
        transformers = importlib.import_module("transformers")
        made = getattr(transformers, config)(**options)
        made._attn_implementation = options.get("attn_implementation", "eager")
        model = getattr(transformers, kind)(made)
        return Named(model, names) if names else model

    return create


def from_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a factory of `timm.create_model(name)`."""

    def create() -> nn.Module:
        declare()
        return importlib.import_module("timm").create_model(name, pretrained=False, **options)

    return create


def tokens(length: int = LENGTH, vocabulary: int = VOCABULARY) -> Callable[[torch.Generator, int], Inputs]:
    """Return a source of ids `(batch, length)`."""
    return lambda generator, batch: (torch.randint(3, vocabulary, (batch, length), generator=generator),)


def masked_tokens(length: int = LENGTH) -> Callable[[torch.Generator, int], Inputs]:
    """Return a source of ids and their mask, of which the last two are hidden in the first row."""

    def draw(generator: torch.Generator, batch: int) -> Inputs:
        (ids,) = tokens(length)(generator, batch)
        mask = torch.ones_like(ids)
        mask[0, -2:] = 0
        return ids, mask

    return draw


def pairs(length: int = LENGTH) -> Callable[[torch.Generator, int], Inputs]:
    """Return a source of ids of an encoder and of a decoder."""
    return lambda generator, batch: (*tokens(length)(generator, batch), *tokens(8)(generator, batch))


def normal(*shape: int) -> Callable[[torch.Generator, int], Inputs]:
    """Return a source of one normal tensor `(batch, *shape)`."""
    return lambda generator, batch: (torch.randn(batch, *shape, generator=generator),)


def causal(name: str, prefix: str, family: str = "language", **options: Any) -> ZooModel:
    """Return the language model `transformers.<prefix>ForCausalLM`, with a dynamic length."""
    return ZooModel(
        name,
        family,
        from_config(f"{prefix}ForCausalLM", f"{prefix}Config", **(SMALL | options)),
        tokens(),
        tokens(12),
        ({1: torch.export.Dim("length", min=4, max=60)},),
    )


def encoder(name: str, prefix: str, kind: str = "Model", **options: Any) -> ZooModel:
    """Return the encoder `transformers.<prefix><kind>` of ids and a mask."""
    return ZooModel(
        name,
        "encoder",
        from_config(f"{prefix}{kind}", f"{prefix}Config", ("input_ids", "attention_mask"), **(SMALL | options)),
        masked_tokens(),
    )


def image_model(name: str, family: str, kind: str, config: str, size: int = 32, **options: Any) -> ZooModel:
    """Return a model of `pixel_values`."""
    return ZooModel(name, family, from_config(kind, config, ("pixel_values",), **options), normal(3, size, size))


def timm_model(name: str, size: int = 64, **options: Any) -> ZooModel:
    """Return an image classifier of timm with ten classes."""
    return ZooModel(f"timm {name}", "timm", from_timm(name, num_classes=10, **options), normal(3, size, size))
