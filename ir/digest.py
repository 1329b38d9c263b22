"""A tensor's content as bytes and as a short text."""

from __future__ import annotations

import hashlib

import torch
from torch.utils.weak import WeakTensorKeyDictionary

_KNOWN = WeakTensorKeyDictionary()


def tensor_digest(tensor: torch.Tensor) -> str:
    """The sha256, in hex, of `tensor`'s dtype, shape and bytes in row-major order.

    Kept per tensor until an in-place operation changes it. Writing behind torch's back (through ``.data`` or numpy)
    goes unseen: see `fresh_tensor_digest`.
    """
    try:
        version = tensor._version
    except RuntimeError:  # tensors made in inference mode keep no version
        return _digest(tensor)
    known = _KNOWN.get(tensor)
    if known is None or known[0] != version:
        known = _KNOWN[tensor] = (version, _digest(tensor))
    return known[1]


def fresh_tensor_digest(tensor: torch.Tensor) -> str:
    """As `tensor_digest`, computed anew."""
    _KNOWN.pop(tensor, None)
    return tensor_digest(tensor)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The elements of `tensor` in row-major order, as the machine stores them."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")


def _digest(tensor: torch.Tensor) -> str:
    header = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n"
    content = hashlib.sha256(header.encode())
    content.update(tensor_bytes(tensor))
    return content.hexdigest()
