"""Rounding a weight column by column, each column's error made up for by those that follow.

Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers" (arXiv 2210.17323),
algorithm 1. A layer's error on calibration data is the quadratic form ``(W - Q) H (W - Q)^T`` with ``H = X^T X``; after
column j was rounded, the best change of the columns that follow is ``-(w_j - q_j) / U_jj * U_j,j+1:``, where U is the
upper Cholesky factor of the inverse of H.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphpress.quantization.refinement.grid import Grid

# Columns whose updates are gathered before they go to all later columns.
BLOCK = 128


def gptq_places(weight: Tensor, hessian: Tensor, grid: Grid, *, damping: float, activation_order: bool) -> Tensor:
    """The place of the chosen code of each weight.

    A column whose input is always zero is rounded to nearest, and makes up for nothing.

    Args:
        weight: [groups, outputs, columns], any floating dtype.
        hessian: [groups, columns, columns], float64, symmetric, positive semidefinite.
        grid: the values that codes have, in the form of `weight`.
        damping: added to the diagonal of the Hessian, as a fraction of its mean.
        activation_order: take the columns with the largest diagonal first.

    Returns:
        int32, of the shape of `weight`.
    """
    places = torch.empty(weight.shape, dtype=torch.int32)
    for group in range(len(weight)):
        diagonal = hessian[group].diagonal()
        if activation_order:
            order = torch.argsort(diagonal, descending=True, stable=True)
        else:
            order = torch.arange(len(diagonal))
        ordered = hessian[group][order][:, order]
        factor = _factor(ordered, damping)
        chosen = _round(weight[group][:, order].double(), factor, _group(grid, group).columns(order))
        places[group, :, order] = chosen
    return places


def _factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped Hessian."""
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    mean = diagonal.mean()
    dead = diagonal == 0
    diagonal += damping * mean
    diagonal[dead] = 1.0
    jitter = float(mean) * 1e-10 or 1.0
    while True:
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed:
            break
        diagonal += jitter  # dependent columns, and no damping to speak of
        jitter *= 10
    inverse = torch.cholesky_inverse(lower)
    return torch.linalg.cholesky(inverse, upper=True)


def _round(weight: Tensor, factor: Tensor, grid: Grid) -> Tensor:
    """The algorithm, on one group; `weight` is [outputs, columns] in float64 and is used up."""
    columns = weight.shape[1]
    places = torch.empty(weight.shape, dtype=torch.int32)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = torch.empty(len(weight), end - start, dtype=torch.float64)
        for column in range(start, end):
            one = grid.columns(slice(column, column + 1))
            current = weight[:, column : column + 1]
            places[:, column : column + 1] = place = one.places(current)
            error = (current - one.values(place).double()) / factor[column, column]
            weight[:, column + 1 : end] -= error * factor[column, column + 1 : end]
            errors[:, column - start : column - start + 1] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return places


def _group(grid: Grid, group: int) -> Grid:
    zero_point, minval = (None if p is None else p[group] for p in (grid.zero_point, grid.minval))
    return Grid(grid.spec, grid.scale[group], zero_point, minval)
