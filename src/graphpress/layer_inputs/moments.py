"""Second moments of a layer's inputs: all that its output error depends on."""

from __future__ import annotations

import torch
from attrs import define, field
from torch import Tensor

# Rows multiplied at once: bounds the memory of one product.
ROWS = 4096


@define(eq=False)
class InputMoments:
    """``E[x x^T]`` of the inputs x that the quantized model gives a layer, and ``E[y x^T]`` with the inputs y that the
    float model gives it; both float64, ``[groups, columns, columns]``.

    Products are made in float32 and summed in float64; no input is kept.
    """

    rows: int = 0
    _quantized: Tensor | None = field(default=None)
    _cross: Tensor | None = field(default=None)

    def add(self, quantized: Tensor, exact: Tensor | None = None) -> None:
        """Take rows ``[groups, rows, columns]`` into account; `exact` has those of the float model, if wanted."""
        self.rows += quantized.shape[1]
        for start in range(0, quantized.shape[1], ROWS):
            x = quantized[:, start : start + ROWS].float()
            self._quantized = _sum(self._quantized, x, x)
            if exact is not None:
                self._cross = _sum(self._cross, exact[:, start : start + ROWS].float(), x)

    @property
    def quantized(self) -> Tensor:
        """``E[x x^T]``."""
        assert self._quantized is not None
        return self._quantized / self.rows

    @property
    def cross(self) -> Tensor:
        """``E[y x^T]``; that of x with itself where the float model's inputs were not given."""
        return self.quantized if self._cross is None else self._cross / self.rows


def _sum(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    product = (left.transpose(1, 2) @ right).double().cpu()
    return product if total is None else total.add_(product)


def fitted_weight(weight: Tensor, moments: InputMoments, damping: float) -> Tensor:
    """The weight v whose outputs on the quantized model's inputs come closest to the float layer's on the float
    model's: the least of ``E[(v x - w y)^2] + d |v - w|^2``, where d is `damping` times the mean of ``E[x^2]``.

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
    """The mean squared error of each output, ``E[(q x - w y)^2] - E[(w y)^2]``: up to what no choice of q changes.

    Args:
        weight, quantized: [groups, outputs, columns].

    Returns:
        float64 [groups, outputs].
    """
    w, q = weight.double(), quantized.double()
    return ((q @ moments.quantized - 2 * (w @ moments.cross)) * q).sum(-1)
