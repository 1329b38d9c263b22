"""The page that shows what each pass of the joint pipeline does to the model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from graphpress import pipelines
from graphpress.ir import from_module
from graphpress.ir.atomic_write import write_atomically
from graphpress.passes.framework import Runner
from graphpress.tools.demo.rows import joint_configs
from graphpress.tools.passctl.page import Recording, page


def write_page(path: Path, model: nn.Module, image: torch.Tensor) -> None:
    """Run the joint pipeline with the configs of the demo's last row over `model`, and write what it did.

    Args:
        path: of the page.
        model: it stays as it is.
        image: an example input, `(batch, channels, height, width)`.
    """
    graph = from_module(model, (image,))
    recording = Recording(graph)
    Runner([recording]).run(graph, pipelines.joint(*joint_configs()), in_place=True)
    text = page(recording, "EDSR, palettized and quantized", "joint")

    def write(target: Path) -> None:
        target.write_text(text, encoding="utf-8")

    write_atomically(path, write)
