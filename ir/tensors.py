"""The data of tensors: digests, identity, copies that share memory until written to, archives and mapped files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from graphpress.ir.dtypes import DType
from graphpress.ir.files import FileError, write_atomically, write_scratch

_KNOWN = WeakTensorKeyDictionary()


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 (hex) of `tensor`'s dtype, shape and bytes in row-major order.

    Cached per tensor until an in-place operation changes it. Writes that bypass torch (through ``.data`` or numpy) are
    not noticed: see `fresh_tensor_digest`.
    """
    try:
        version = tensor._version
    except RuntimeError:  # inference tensors have no version counter
        return _digest(tensor)
    known = _KNOWN.get(tensor)
    if known is None or known[0] != version:
        known = _KNOWN[tensor] = (version, _digest(tensor))
    return known[1]


def fresh_tensor_digest(tensor: torch.Tensor) -> str:
    """Compute `tensor_digest` without the cache."""
    _KNOWN.pop(tensor, None)
    return tensor_digest(tensor)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the elements of `tensor` in row-major order, in machine byte order."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")


def _digest(tensor: torch.Tensor) -> str:
    header = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n"
    content = hashlib.sha256(header.encode())
    content.update(tensor_bytes(tensor))
    return content.hexdigest()


def lazy_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a detached copy-on-write copy of `tensor`.

    torch supports this for CPU storage that it allocated itself. For other storage, and for storage that holds more
    than the tensor, the copy is made immediately.
    """
    detached = tensor.detach()
    if not _can_share(detached):
        return detached.clone()
    try:
        return torch._lazy_clone(detached)
    except RuntimeError:  # foreign memory, such as a mapped file or a numpy array
        return detached.clone()


def _can_share(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_inference()
        and not tensor.is_shared()
        and tensor.untyped_storage().resizable()  # not borrowed, as by `torch.export.load`: torch crashes on writes
        and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() > 0
    )


_ALIGNMENT = 64  # bytes, as torch allocates on the CPU


def write_archive(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, which `from_archive` reads the tensors of; an interrupted write leaves the old file.

    Tensors go there dense in row-major order, those that share memory each with all of its data, complex128 as pairs
    of float64.

    Raises:
        FileError: when it cannot be written.
    """
    ready = _archived(tensors)
    try:
        size = sum(tensor.nbytes for tensor in ready.values())
        write_atomically(path, lambda beside: save_file(ready, beside, metadata), size)
    except SafetensorError as error:
        raise FileError(path, error) from error


def _archived(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ready: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        if plain.dtype == torch.complex128:  # safetensors does not support complex128
            plain = torch.view_as_real(plain)
        storage = plain.untyped_storage().data_ptr()
        ready[name] = plain.clone() if storage in storages else plain
        storages.add(storage)
    return ready


def from_archive(tensor: torch.Tensor, dtype: DType) -> torch.Tensor:
    """A tensor of element type `dtype` as it was before `write_archive`.

    Archives pack tensors without gaps. Matrix products on misaligned memory differ in their last bits, so misaligned
    tensors are copied to aligned memory.
    """
    tensor = tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor
    return torch.view_as_complex(tensor) if dtype is DType.COMPLEX128 else tensor


def mapped_tensor(tensor: torch.Tensor, path: str | os.PathLike[str]) -> torch.Tensor:
    """Write the data of `tensor`, bytes in row-major order, to the scratch file `path`; return a tensor mapped from it.

    Raises:
        FileError: when the file cannot be written.
    """
    data = tensor_bytes(tensor)
    write_scratch(path, data)
    mapped = torch.from_file(os.fspath(path), shared=False, size=data.nbytes, dtype=torch.uint8)
    return mapped.view(tensor.dtype).reshape(tensor.shape)


def tensor_identity(tensor: torch.Tensor) -> Any:
    """Return a key that is equal for tensors with the same elements of the same memory."""
    if tensor.numel() == 0 or tensor.layout is not torch.strided or tensor.device.type == "meta":
        return id(tensor)
    try:
        storage = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a tensor subclass with inner tensors
        return id(tensor)
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
