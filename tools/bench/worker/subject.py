"""The model a task names, with its inputs."""

from typing import Any

import torch
from torch import nn

from graphpress.tools import models
from graphpress.tools.edsr.model import EDSR
from graphpress.tools.models import MODELS, randomize


def build_subject(task: dict[str, Any]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Build `task["model"]`, with `task["arguments"]` for its factory, and its example inputs.

    `edsr` is the untrained network on a 48x48 image; the other names are those of `MODELS`.
    """
    name = task["model"]
    if name == "edsr":
        return randomize(EDSR()), (torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1)),)
    model = getattr(models, name)(**task.get("arguments", {}))
    return model, MODELS[name].example_inputs()
