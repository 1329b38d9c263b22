"""The types of SSA values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from attrs import field, frozen

from graphpress.ir.dims import Dim, SymDim, evaluate_dim
from graphpress.ir.dtypes import DType


def _shape(shape: Iterable[Dim]) -> tuple[Dim, ...]:
    return tuple(dim if isinstance(dim, SymDim) else int(dim) for dim in shape)


@frozen(cache_hash=True)
class TensorType:
    """A dense tensor: element type and shape. Printed as ``f32[1, 3, s0, s0]``."""

    dtype: DType
    shape: tuple[Dim, ...] = field(converter=_shape)

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorType:
        """The type of a tensor whose extents are all numbers."""
        return cls(DType.of(tensor.dtype), tensor.shape)

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """True when no extent is symbolic."""
        return not any(isinstance(dim, SymDim) for dim in self.shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another element type."""
        return TensorType(dtype, self.shape)

    def at(self, values: Mapping[str, int]) -> TensorType:
        """The type when every symbol has the given value."""
        return self if self.is_static else TensorType(self.dtype, [evaluate_dim(d, values) for d in self.shape])

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]"


@frozen
class ScalarType:
    """A Python number that is known only when the model runs, such as the size of an axis.

    `kind` is ``int``, ``float`` or ``bool``; `value` is the expression it equals, where one is known.
    """

    kind: str
    value: Dim | None = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}({self.value})"


@frozen
class OpaqueType:
    """Anything else that flows through a graph (a token, a script object); passes never look inside."""

    description: str

    def __str__(self) -> str:
        return f"opaque({self.description!r})"


Type = TensorType | ScalarType | OpaqueType
