"""Run a model without a trace of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from graphpress.compressor import mode_restored


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Be in eval mode without gradients; modes, buffers and torch's random numbers are afterwards as before."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with mode_restored(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            for module in model.modules():
                module.training = False
            yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
