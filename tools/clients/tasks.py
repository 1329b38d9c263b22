"""What is run: a client, its recipe and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from graphpress.tools.clients.worker.checkpoints import MODELS

_PALETTIZED = "4bit_weight_palettized_group8"
_IOS = ("qwen2", "qwen3", "mistral")


@attrs.frozen
class Task:
    """A run of a client on both sides.

    Attributes:
        name: the name in the table.
        order: what the worker gets.
        environment: where it runs, `zoo` or `executorch`.
    """

    name: str
    order: Mapping[str, Any]
    environment: str = "zoo"

    @property
    def model(self) -> str | None:
        """The checkpoint that it needs."""
        return self.order.get("model")

    @property
    def needs_checkout(self) -> bool:
        """Whether it runs a checkout of coreai-models."""
        return "checkout" in self.order


def tasks(checkout: str | None) -> list[Task]:
    """Return all tasks, in the order of the table."""

    def export(name: str, model: str, variant: str, preset: str) -> Task:
        order = {"do": "export", "checkout": checkout, "model": model, "variant": variant, "preset": preset}
        return Task(f"{variant} `{preset}`, {name}", order)

    return [
        *(export(model, model, "macOS", "4bit") for model in MODELS),
        export("qwen3 of hidden size 1024, 8 layers", "qwen3_large", "macOS", "4bit"),
        *(export(model, model, "iOS", _PALETTIZED) for model in _IOS),
        Task("segmentation for iOS, sam3", {"do": "segment", "checkout": checkout, "model": "sam3"}),
        Task("exploration, 45 configurations", {"do": "explore", "checkout": checkout}),
        Task("ExecuTorch `CoreAIQuantizer` and partitioner", {"do": "lower"}, "executorch"),
    ]
