"""Layers as matrix products, and second moments of their inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor
from torch.nn import functional


@frozen
class LayerMatrix:
    """A linear layer or convolution as matrix products: per group, ``output[n, o] = sum over k of rows[n, k] W[o, k]``.

    Attributes:
        shape: shape of the weight.
        spatial: number of spatial axes, 0 for linear.
        groups: number of channel groups.
        is_transposed: True if axis 0 of the weight is the input channels.
        stride, padding, dilation, output_padding: per spatial axis; a padding is a pair (before, after).
    """

    shape: tuple[int, ...]
    spatial: int = 0
    groups: int = 1
    is_transposed: bool = False
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()

    @classmethod
    def of(cls, op: str, shape: Sequence[int], arguments: dict[str, Any]) -> LayerMatrix:
        """Return the matrix form of an op such as ``conv2d`` or ``linear``.

        `arguments` are its ATen arguments; missing ones have ATen's defaults.
        """
        if op == "linear":
            return cls(tuple(shape))
        spatial = int(op.rstrip("d")[-1])

        def each(name: str, default: int) -> tuple[int, ...]:
            value = arguments.get(name, default)
            values = (value,) if isinstance(value, int) else tuple(value)
            return values * spatial if len(values) == 1 else values

        dilation, kernel = each("dilation", 1), tuple(shape[2:])
        padding = arguments.get("padding", 0)
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            pairs = tuple((total // 2, total - total // 2) for total in totals)
        else:
            pairs = tuple((p, p) for p in (each("padding", 0) if padding != "valid" else (0,) * spatial))
        transposed = "transpose" in op
        return cls(
            tuple(shape),
            spatial,
            int(arguments.get("groups", 1)),
            transposed,
            each("stride", 1),
            pairs,
            dilation,
            each("output_padding", 0) if transposed else (),
        )

    @property
    def columns(self) -> int:
        """Columns per group: the number of inputs of one output."""
        if self.is_transposed:
            return self.shape[0] // self.groups * math.prod(self.shape[2:])
        return math.prod(self.shape[1:])

    @property
    def outputs(self) -> int:
        """Output features per group."""
        return self.shape[1] if self.is_transposed else self.shape[0] // self.groups

    def to_matrices(self, weight: Tensor) -> Tensor:
        """Reshape a tensor of the weight's shape to ``[groups, outputs per group, columns]``."""
        if not self.is_transposed:
            return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)
        inputs, outputs, *kernel = weight.shape
        split = weight.reshape(self.groups, inputs // self.groups, outputs, *kernel).transpose(1, 2)
        return split.flip(*range(3, 3 + self.spatial)).reshape(self.groups, outputs, -1)

    def from_matrices(self, matrices: Tensor) -> Tensor:
        """Invert `to_matrices`."""
        if not self.is_transposed:
            return matrices.reshape(self.shape)
        inputs, outputs, *kernel = self.shape
        split = matrices.reshape(self.groups, outputs, inputs // self.groups, *kernel)
        return split.flip(*range(3, 3 + self.spatial)).transpose(1, 2).reshape(self.shape)

    def rows(self, data: Tensor, most: int | None = None) -> Tensor:
        """Return the layer's input as ``[groups, rows, columns]``, with a row per output position.

        If there are more than `most` rows, a deterministic sample of that size is drawn.
        """
        if not self.spatial:
            rows = data.reshape(-1, data.shape[-1])
            picked = _picked(len(rows), most)
            return (rows if picked is None else rows[picked.to(rows.device)])[None]
        seen = self._seen(data)
        positions = seen.shape[: 1 + self.spatial]
        picked = _picked(positions.numel(), most)
        if picked is None:
            rows = seen.reshape(positions.numel(), self.groups, -1)
        else:
            rows = seen[torch.unravel_index(picked.to(data.device), positions)].reshape(len(picked), self.groups, -1)
        return rows.transpose(0, 1)

    def column_energies(self, data: Tensor) -> Tensor:
        """Return the sum of squares of each column of `rows`, ``[groups, columns]`` float64, without building rows."""
        squares = data.float().square()
        if not self.spatial:
            return squares.reshape(-1, data.shape[-1]).sum(0, dtype=torch.float64)[None]
        sums = self._seen(squares).sum(tuple(range(1 + self.spatial)), dtype=torch.float64)
        return sums.reshape(self.groups, -1)

    def _seen(self, data: Tensor) -> Tensor:
        """Return the input windows of the output positions, ``[batch, *positions, channels, *kernel]``, as a view."""
        data = data if data.ndim == self.spatial + 2 else data[None]
        if self.is_transposed:
            data, stride, padding = self._spread(data), (1,) * self.spatial, self._transposed_padding()
        else:
            stride, padding = self.stride, self.padding
        data = functional.pad(data, [p for pair in reversed(padding) for p in pair])
        for axis, extent in enumerate(self.shape[2:]):
            reach = self.dilation[axis] * (extent - 1) + 1
            data = data.unfold(2 + axis, reach, stride[axis])[..., :: self.dilation[axis]]
        return data.movedim(1, 1 + self.spatial)

    def _spread(self, data: Tensor) -> Tensor:
        """Insert ``stride - 1`` zeros between the elements of `data`, along each spatial axis."""
        shape = [(n - 1) * step + 1 for n, step in zip(data.shape[2:], self.stride, strict=True)]
        made = data.new_zeros(*data.shape[:2], *shape)
        made[(slice(None), slice(None), *(slice(None, None, step) for step in self.stride))] = data
        return made

    def _transposed_padding(self) -> tuple[tuple[int, int], ...]:
        reaches = (d * (k - 1) for d, k in zip(self.dilation, self.shape[2:], strict=True))
        each = zip(reaches, self.padding, self.output_padding, strict=True)
        return tuple((reach - low, reach - high + extra) for reach, (low, high), extra in each)


def _picked(count: int, most: int | None) -> Tensor | None:
    """Sample `most` of `count` indices, sorted; None means all."""
    if most is None or count <= most:
        return None
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values


# Rows per product, which bounds its memory.
ROWS = 4096


@define(eq=False)
class InputMoments:
    """Second moments of a layer's inputs in the quantized and the float model.

    With inputs x in the quantized model and y in the float model, these are ``E[x x^T]`` and ``E[y x^T]``, both float64
    ``[groups, columns, columns]``. Products are computed in float32 and summed in float64; inputs are not kept.
    """

    rows: int = 0
    _quantized: Tensor | None = field(default=None)
    _cross: Tensor | None = field(default=None)

    def add(self, quantized: Tensor, exact: Tensor | None = None) -> None:
        """Add rows ``[groups, rows, columns]``; `exact` holds the same rows of the float model, if needed."""
        self.rows += quantized.shape[1]
        for start in range(0, quantized.shape[1], ROWS):
            x = quantized[:, start : start + ROWS].float()
            self._quantized = _sum(self._quantized, x, x)
            if exact is not None:
                self._cross = _sum(self._cross, exact[:, start : start + ROWS].float(), x)

    @property
    def quantized(self) -> Tensor:
        """Return ``E[x x^T]``."""
        assert self._quantized is not None
        return self._quantized / self.rows

    @property
    def cross(self) -> Tensor:
        """Return ``E[y x^T]``, or ``E[x x^T]`` if no inputs of the float model were added."""
        return self.quantized if self._cross is None else self._cross / self.rows


def _sum(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    product = (left.transpose(1, 2) @ right).double().cpu()
    return product if total is None else total.add_(product)


def fitted_weight(weight: Tensor, moments: InputMoments, damping: float) -> Tensor:
    """Fit a weight v on the quantized model's inputs x to the float layer's outputs w y.

    It minimizes ``E[(v x - w y)^2] + d |v - w|^2``, where d is `damping` times the mean of ``E[x^2]``.

    Args:
        weight: w, [groups, outputs, columns].

    Returns:
        float64, of the shape of `weight`.
    """
    mean = moments.quantized.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    if not bool((mean > 0).all()):
        return weight.double()
    ridge = max(damping, 1e-6) * mean * torch.eye(weight.shape[-1], dtype=torch.float64)
    w = weight.double()
    return w + torch.linalg.solve(moments.quantized + ridge, (w @ (moments.cross - moments.quantized)).mT).mT


def output_error(weight: Tensor, quantized: Tensor, moments: InputMoments) -> Tensor:
    """Return the mean squared error of each output, up to a constant: ``E[(q x - w y)^2] - E[(w y)^2]``.

    Args:
        weight, quantized: [groups, outputs, columns].

    Returns:
        float64 [groups, outputs].
    """
    w, q = weight.double(), quantized.double()
    return ((q @ moments.quantized - 2 * (w @ moments.cross)) * q).sum(-1)
