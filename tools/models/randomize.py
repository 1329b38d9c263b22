"""Seeded random weights and batch norm statistics with the distribution of trained ones."""

import math
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_DEGREES_OF_FREEDOM = 4.0


_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


def randomize(model: _ModuleT, seed: int = 0) -> _ModuleT:
    """Fill every parameter and batch norm statistic from one seed, and return the model in eval mode.

    Weights are heavy-tailed (Student's t with 4 degrees of freedom), as those of trained networks are, with variance `2
    / fan_in` so that activations keep their size through relu networks of any depth. Norm scales and running variances
    lie in [0.5, 1.5]; biases, shifts and running means are normal with deviation 0.1. The model is changed in place.
    Tied weights are drawn once and stay tied.
    """
    generator = torch.Generator().manual_seed(seed)
    norm_weights = {id(module.weight) for module in model.modules() if _is_norm(module) and module.weight is not None}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in norm_weights:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.dim() < 2:
                parameter.normal_(0.0, 0.1, generator=generator)
            else:
                parameter.copy_(_heavy_tailed(parameter.shape, generator))
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0.0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm)


def _heavy_tailed(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Student's t as a normal over the root of a chi-square, scaled to variance `2 / fan_in`."""
    fan_in = math.prod(shape[1:])
    # A chi-square with 4 degrees of freedom is -2 log(u1 u2) for uniform u1, u2.
    uniform = torch.rand(shape, generator=generator).mul_(torch.rand(shape, generator=generator))
    chi_square = uniform.clamp_min_(1e-12).log_().mul_(-2.0)
    student = torch.randn(shape, generator=generator).mul_((chi_square / _DEGREES_OF_FREEDOM).rsqrt_())
    variance = _DEGREES_OF_FREEDOM / (_DEGREES_OF_FREEDOM - 2.0)
    return student.mul_(math.sqrt(2.0 / (fan_in * variance)))
