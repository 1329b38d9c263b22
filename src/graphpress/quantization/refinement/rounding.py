"""Optimized weight rounding: GPTQ by columns, and adaptive rounding by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir import reference
from graphpress.layer_inputs import InputMoments, output_error
from graphpress.passes.config import AdaptiveRounding, QuantizationSpec
from graphpress.passes.weights.quantize import QParams

Arrange = Callable[[Tensor], Tensor]


@frozen
class Grid:
    """The quantization grid of a weight in matrix form, ``[groups, outputs, columns]``.

    Attributes:
        spec: the quantization spec.
        scale, zero_point, minval: float32 in matrix form, per element; the last two may be None.
    """

    spec: QuantizationSpec
    scale: Tensor
    zero_point: Tensor | None
    minval: Tensor | None

    @classmethod
    def of(cls, spec: QuantizationSpec, qparams: QParams, shape: tuple[int, ...], arrange: Arrange) -> Grid:
        """Build the grid of a weight of `shape`; `arrange` converts tensors of that shape to matrix form."""

        def whole(parameter: Tensor | None) -> Tensor | None:
            if parameter is None:
                return None
            return arrange(reference.repeat_blocks(parameter.float(), shape).expand(shape).contiguous())

        scale = whole(qparams[0])
        assert scale is not None
        return cls(spec, scale, whole(qparams[1]), whole(qparams[2]))

    def columns(self, index: Tensor | slice) -> Grid:
        """Return the grid of some columns."""
        zero_point, minval = (None if p is None else p[..., index] for p in (self.zero_point, self.minval))
        return Grid(self.spec, self.scale[..., index], zero_point, minval)

    def places(self, values: Tensor) -> Tensor:
        """Return the places (see `reference.code_places`) of the codes nearest to `values`."""
        codes = reference.quantize(values, self.scale, self.zero_point, self.minval, **self._how)
        return reference.code_places(codes, self.spec.element_type)

    def values(self, places: Tensor) -> Tensor:
        """Return the values that the codes at `places` represent, float32."""
        codes = reference.codes_of_places(places, self.spec.element_type)
        how = {key: value for key, value in self._how.items() if key != "quant_max"}
        return reference.dequantize(codes, self.scale, self.zero_point, self.minval, **how)

    def clamped(self, places: Tensor) -> Tensor:
        """Clamp `places` to the codes that the spec permits."""
        if self.spec.element_type.is_floating:
            codes = reference.codes_of_places(places, self.spec.element_type)
            return reference.code_places(codes, self.spec.element_type)
        return places.clamp(int(self.spec.quant_min), int(self.spec.quant_max))

    @property
    def _how(self) -> dict[str, Any]:
        how: dict[str, Any] = {"dtype": self.spec.element_type}
        if not self.spec.element_type.is_floating:
            how |= {"quant_min": int(self.spec.quant_min), "quant_max": int(self.spec.quant_max)}
        return how


def offset_to(grid: Grid, weight: Tensor, places: Tensor) -> Tensor:
    """Return the steps from the nearest code of each weight to `places`, int8."""
    return (places - grid.places(weight)).clamp(-128, 127).to(torch.int8)


# Columns per block of GPTQ; updates of later columns are applied per block.
BLOCK = 128


def gptq_places(weight: Tensor, hessian: Tensor, grid: Grid, *, damping: float, activation_order: bool) -> Tensor:
    """Choose codes by GPTQ (arXiv 2210.17323) and return their places.

    A column whose input is always zero is rounded to nearest and compensates no errors.

    Args:
        weight: [groups, outputs, columns], any floating dtype.
        hessian: [groups, columns, columns], float64, symmetric, positive semidefinite.
        grid: the quantization grid, in the shape of `weight`.
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
    """Return the upper Cholesky factor of the inverse of the damped Hessian."""
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
        diagonal += jitter  # linearly dependent columns with negligible damping
        jitter *= 10
    inverse = torch.cholesky_inverse(lower)
    return torch.linalg.cholesky(inverse, upper=True)


def _round(weight: Tensor, factor: Tensor, grid: Grid) -> Tensor:
    """Round one group; `weight` is [outputs, columns] float64 and is overwritten."""
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


# The rectified sigmoid is stretched beyond [0, 1], so that it reaches both ends (eq. 23).
STRETCH_HIGH, STRETCH_LOW = 1.1, -0.1
FIRST_BETA, LAST_BETA = 20.0, 2.0
WARM_UP = 0.2


def adaptive_places(weight: Tensor, moments: InputMoments, grid: Grid, how: AdaptiveRounding) -> Tensor:
    """Choose between the two codes next to each weight by adaptive rounding, and return their places.

    Args:
        weight: [groups, outputs, columns].
        moments: second moments of the layer's inputs.
        grid: the quantization grid, in the shape of `weight`.
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
    """Greedily flip, for each output, the rounding that reduces its error most, until none does.

    Args:
        is_up: True for ``low + step``, False for `low`; [groups, outputs, columns], as all tensors.
    """
    hessian, low, step = moments.quantized, low.double(), step.double()
    diagonal = hessian.diagonal(dim1=1, dim2=2)[:, None]
    groups = torch.arange(len(hessian))[:, None]
    is_up, turn = is_up.clone(), torch.where(is_up, -step, step)
    slope = (low + step * is_up) @ hessian - weight.double() @ moments.cross
    least = -1e-12 * ((weight.double() @ hessian) * weight.double()).sum(
        -1, keepdim=True
    )  # above float rounding errors
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
    """Return the factor that normalizes the error of rounding to nearest to 1 per weight."""
    lost = output_error(weight, nearest, moments) - output_error(weight, weight, moments)
    total = float(lost.sum())
    return weight.numel() / total if total > 0 else 1.0


def _beta(progress: float) -> float | None:
    """Return the exponent of the regularizer, by a cosine schedule; None while it is off."""
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
