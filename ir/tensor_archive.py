"""Tensors in the form safetensors takes, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graphpress.ir.dtypes import DType

_ALIGNMENT = 64  # bytes, as torch allocates on the CPU


def to_archive(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`tensors` on the CPU, dense in row-major order, no two in the same memory, complex128 as pairs of float64."""
    ready: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        if plain.dtype == torch.complex128:  # safetensors has no such type
            plain = torch.view_as_real(plain)
        storage = plain.untyped_storage().data_ptr()
        ready[name] = plain.clone() if storage in storages else plain
        storages.add(storage)
    return ready


def from_archive(tensor: torch.Tensor, dtype: DType) -> torch.Tensor:
    """A tensor of element type `dtype` as it was before `to_archive`.

    Archives pack tensors without gaps. Matrix products of badly aligned memory differ in their last bits, so that such
    tensors are copied to where torch would have put them.
    """
    tensor = tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor
    return torch.view_as_complex(tensor) if dtype is DType.COMPLEX128 else tensor
