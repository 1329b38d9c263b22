"""Copies of tensors that share memory until one side is written to."""

from __future__ import annotations

import torch
from torch import nn


def lazy_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A detached copy of `tensor` whose memory is taken when either of the two is first written to.

    torch copies on write for storage that it allocated itself on the CPU; its kernels tell reading from writing. Where
    it does not, or where the storage holds more than the tensor, the copy is made at once.
    """
    detached = tensor.detach()
    if not _can_share(detached):
        return detached.clone()
    try:
        return torch._lazy_clone(detached)
    except RuntimeError:  # memory of somebody else, such as a mapped file or an array of numpy
        return detached.clone()


def _can_share(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_inference()
        and not tensor.is_shared()
        and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() > 0
    )
