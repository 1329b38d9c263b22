"""Rounding each weight up or down by gradient descent on the error of its layer.

Nagel et al., "Up or down? Adaptive rounding for post-training quantization" (arXiv 2004.10568), sections 3.2 and 3.3: a
rectified sigmoid h(v) between the two codes of each weight is relaxed, and a regularizer ``1 - |2 h - 1|^beta`` whose
beta falls from 20 to 2 drives it to 0 or 1. The error is the quadratic form of `output_error`, whose gradient is
``2 (q E[x x^T] - w E[y x^T])``. What the relaxation left undone, single turns finish.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphpress.layer_inputs.moments import InputMoments, output_error
from graphpress.passes.specs import AdaptiveRounding
from graphpress.quantization.refinement.grid import Grid

# The rectified sigmoid reaches beyond 0 and 1 so that it can be either (eq. 23).
STRETCH_HIGH, STRETCH_LOW = 1.1, -0.1
FIRST_BETA, LAST_BETA = 20.0, 2.0
WARM_UP = 0.2


def adaptive_places(weight: Tensor, moments: InputMoments, grid: Grid, how: AdaptiveRounding) -> Tensor:
    """The place of the chosen code of each weight, one of the two next to it.

    Args:
        weight: [groups, outputs, columns].
        moments: of the layer's inputs.
        grid: the values that codes have, in the form of `weight`.
        how: iterations, learning rate, regularization.

    Returns:
        int32, of the shape of `weight`.
    """
    nearest = grid.places(weight)
    lower = torch.where(grid.values(nearest) <= weight, nearest, nearest - 1)
    lower, upper = grid.clamped(lower), grid.clamped(lower + 1)
    low, step = grid.values(lower), grid.values(upper) - grid.values(lower)
    is_free = step > 0
    fraction = torch.where(is_free, (weight.float() - low) / step.where(is_free, 1.0), 0.0).clamp(0.0, 1.0)

    hessian = moments.quantized.float()
    wanted = (weight.double() @ moments.cross).float()
    scale = _weights_per_error(weight, grid.values(nearest), moments)
    stretched = (fraction - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)
    v = torch.log(stretched / (1 - stretched))
    first, second = torch.zeros_like(v), torch.zeros_like(v)
    for iteration in range(how.iterations):
        sigmoid = torch.sigmoid(v)
        raw = sigmoid * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
        h = raw.clamp(0.0, 1.0)
        gradient = 2 * scale * ((low + h * step) @ hessian - wanted) * step
        beta = _beta(iteration / how.iterations)
        if beta is not None:
            distance = 2 * h - 1
            gradient -= how.regularization * 2 * beta * distance.abs().pow(beta - 1) * distance.sign()
        gradient *= ((raw > 0) & (raw < 1)) * sigmoid * (1 - sigmoid) * (STRETCH_HIGH - STRETCH_LOW)
        _adam(v, gradient, first, second, iteration + 1, how.learning_rate)
    is_up = turned_one_by_one(v >= 0, weight, moments, low, step)  # h(0) is a half
    return torch.where(is_up, upper, lower)


def turned_one_by_one(is_up: Tensor, weight: Tensor, moments: InputMoments, low: Tensor, step: Tensor) -> Tensor:
    """Turn, for each output, the weight that lowers its error most, until none does.

    Args:
        is_up: which weights are ``low + step``, and not `low`; [groups, outputs, columns] as all of these.
    """
    hessian, low, step = moments.quantized, low.double(), step.double()
    diagonal = hessian.diagonal(dim1=1, dim2=2)[:, None]
    groups = torch.arange(len(hessian))[:, None]
    is_up, turn = is_up.clone(), torch.where(is_up, -step, step)
    slope = (low + step * is_up) @ hessian - weight.double() @ moments.cross
    least = -1e-12 * ((weight.double() @ hessian) * weight.double()).sum(-1, keepdim=True)  # above rounding errors
    for _ in range(2 * weight.shape[-1]):
        gain, column = (turn * (2 * slope + turn * diagonal)).min(-1, keepdim=True)
        helps = gain < least
        if not helps.any():
            break
        slope += torch.where(helps, turn.gather(-1, column), 0.0) * hessian[groups, column[..., 0]]
        chosen = torch.zeros_like(is_up).scatter_(-1, column, helps)
        is_up ^= chosen
        turn = torch.where(chosen, -turn, turn)
    return is_up


def _weights_per_error(weight: Tensor, nearest: Tensor, moments: InputMoments) -> float:
    """What to multiply the error by so that rounding to nearest costs 1 for each weight."""
    lost = output_error(weight, nearest, moments) - output_error(weight, weight, moments)
    total = float(lost.sum())
    return weight.numel() / total if total > 0 else 1.0


def _beta(progress: float) -> float | None:
    """The sharpness of the regularizer, by a cosine; None while it is off."""
    if progress < WARM_UP:
        return None
    angle = math.pi * (progress - WARM_UP) / (1 - WARM_UP)
    return LAST_BETA + (FIRST_BETA - LAST_BETA) * (1 + math.cos(angle)) / 2


def _adam(v: Tensor, gradient: Tensor, first: Tensor, second: Tensor, count: int, rate: float) -> None:
    """One step of Adam with its usual constants (arXiv 1412.6980)."""
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    corrected = (second / (1 - 0.999**count)).sqrt_().add_(1e-8)
    v.addcdiv_(first, corrected, value=-rate / (1 - 0.9**count))
