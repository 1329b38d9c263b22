"""What chooses the elements of a weight that stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from graphpress.passes.pruning.errors import PruningError
from graphpress.passes.specs.components import PRUNING_ALGORITHMS
from graphpress.passes.specs.pruning import PruningScheme, PruningSpec

C = TypeVar("C", bound=type)


class PruningAlgorithm(ABC):
    """Chooses what stays. A class of this kind is named by `PruningSpec.pruning_algo`, itself or by its key."""

    @staticmethod
    def register(key: str) -> Callable[[C], C]:
        """Class decorator: specs may name the class by `key`."""
        return PRUNING_ALGORITHMS.register(key)

    @abstractmethod
    def mask(self, weight: Tensor, sparsity: float, scheme: PruningScheme) -> Tensor:
        """True for each element that stays: bool, of the shape of `weight`, on its device.

        Args:
            weight: floating, finite, with at least one element; it is only read.
            sparsity: the fraction of zeros, from 0 to 1.
            scheme: the structure that zeros come in.
        """


def pruning_mask(weight: Tensor, spec: PruningSpec, sparsity: float | None = None, *, name: str = "weight") -> Tensor:
    """True for each element of a weight that stays: bool, of its shape.

    Args:
        weight: the weight, floating.
        spec: how it is pruned.
        sparsity: the fraction of zeros; None is the target of the spec.
        name: for errors.

    Raises:
        PruningError: for weights without elements or with values that are not finite, for an axis that they do not
            have, and for an algorithm that gives no mask.
        SpecError: when `pruning_algo` names no loaded class.
    """
    values = weight.detach()
    if not values.is_floating_point():
        raise PruningError(f"{name} is {values.dtype}; floating weights are pruned")
    if not values.numel():
        raise PruningError(f"{name} of shape {tuple(values.shape)} has no elements to prune")
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise PruningError(f"{name} has {count} values that are not finite, which have no magnitude to go by")
    wanted = spec.target_sparsity if sparsity is None else sparsity
    try:
        mask = PRUNING_ALGORITHMS.make(spec.pruning_algo).mask(values, wanted, spec.pruning_scheme)
    except PruningError as error:
        raise PruningError(f"{name}: {error}") from error
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool or mask.shape != values.shape:
        raise PruningError(
            f"{name}: pruning_algo {spec.pruning_algo!r} must give a bool tensor of shape {tuple(values.shape)}"
        )
    return mask
