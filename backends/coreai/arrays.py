"""Between torch tensors and the runtime's arrays, with the checks the runtime makes too late or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphpress.backends.coreai import ops
from graphpress.backends.coreai.asset import TensorInfo
from graphpress.backends.errors import ModelInputError
from graphpress.ir.dtypes import DType

_NARROWED = {torch.int64: torch.int32, torch.float64: torch.float32}
"""The converter stores 64-bit types in 32: what a torch model takes as int64, its asset takes as int32."""


def to_runtime(value: Any, declared: TensorInfo) -> Any:
    """The runtime's array for an input or state declared as `declared`; Python numbers are taken as scalars.

    Raises:
        ModelInputError: when the value is no tensor of that shape and dtype.
    """
    if isinstance(value, (bool, int, float)):
        value = torch.tensor(value, dtype=declared.dtype.torch_dtype)
    if not isinstance(value, torch.Tensor):
        raise ModelInputError(f"input {declared.name!r} must be a torch tensor, got a {type(value).__name__}")
    tensor = _narrowed(value.detach().cpu(), declared)
    if tensor.dtype != declared.dtype.torch_dtype:
        raise ModelInputError(
            f"input {declared.name!r} is {value.dtype}, but this asset takes {declared.dtype.torch_dtype}"
        )
    expected = ["any" if size is None else size for size in declared.shape]
    fits = tensor.dim() == len(expected) and all(
        want in ("any", have) for want, have in zip(expected, tensor.shape, strict=True)
    )
    if not fits:
        raise ModelInputError(
            f"input {declared.name!r} has shape {list(tensor.shape)}, but this asset takes "
            f"[{', '.join(map(str, expected))}]"
        )
    return ops.require("coreai.runtime").NDArray(_to_numpy(tensor.contiguous()))


def to_torch(array: Any) -> torch.Tensor:
    """A tensor with a copy of the runtime's array."""
    values = np.array(array.numpy(), order="C")  # np.ascontiguousarray would make one number a vector
    dtype = DType.of(array.dtype.replace("fn", "fnu") if "e8m0" in array.dtype else _torch_name(array.dtype))
    if dtype.torch_dtype in _VIEWS:
        return torch.from_numpy(values.view(_VIEWS[dtype.torch_dtype][1])).view(dtype.torch_dtype)
    return torch.from_numpy(values)


_VIEWS: dict[torch.dtype, tuple[torch.dtype, Any]] = {
    torch.bfloat16: (torch.int16, np.int16),
    torch.float8_e4m3fn: (torch.uint8, np.uint8),
    torch.float8_e5m2: (torch.uint8, np.uint8),
    torch.float8_e8m0fnu: (torch.uint8, np.uint8),
}
"""Types numpy lacks, with the integers of their size whose bits stand for them."""


def _narrowed(tensor: torch.Tensor, declared: TensorInfo) -> torch.Tensor:
    narrow = _NARROWED.get(tensor.dtype)
    if narrow is None or narrow != declared.dtype.torch_dtype:
        return tensor
    if narrow == torch.int32 and tensor.numel():
        low, high = (int(bound) for bound in tensor.aminmax())
        if low < declared.dtype.minimum or high > declared.dtype.maximum:
            raise ModelInputError(
                f"input {declared.name!r} holds {low} to {high}, but this asset takes it as 32-bit integers"
            )
    return tensor.to(narrow)


def _to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype not in _VIEWS:
        return tensor.numpy()
    import ml_dtypes  # comes with coreai-core

    name = DType.of(tensor.dtype).long_name
    return tensor.view(_VIEWS[tensor.dtype][0]).numpy().view(getattr(ml_dtypes, name))


def _torch_name(runtime_name: str) -> str:
    """`float8e4m3fn` as the runtime writes it, `float8_e4m3fn` as torch does."""
    return runtime_name.replace("float8e", "float8_e")
