"""A backend that writes the ops of a model to a text file, one per line."""

from __future__ import annotations

from pathlib import Path

import torch

from graphpress.ir import from_module
from graphpress.passes.dce import Dce


class TextBackend:
    """For reading, not for running."""

    name = "text"

    def lowering(self):
        """Text says everything as it is."""
        return (Dce(),)

    def convert(self, model: torch.nn.Module, path, example_inputs=None) -> Path:
        """Write the ops of `model`."""
        lines = [node.op.name for node in from_module(model, example_inputs).nodes]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Path(path)
