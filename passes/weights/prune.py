"""Prune one weight: which of its elements stay."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from attrs import frozen
from torch import Tensor
from torch.nn.functional import pad

from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.config.components import PRUNING_ALGORITHMS
from graphpress.passes.config.pruning_spec import (
    BlockStructured,
    ChannelStructured,
    NMStructured,
    PruningScheme,
    PruningSpec,
)
from graphpress.passes.weights.errors import PruningError
from graphpress.passes.weights.stored import StoredWeight, node_name

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


@frozen(eq=False)
class PrunedWeight(StoredWeight):
    """The kept elements of a weight and their mask; all elements where these take less space.

    Attributes:
        tensor: the weight, zero where the mask is false.
        mask: true where an element is kept.
    """

    tensor: Tensor
    mask: Tensor

    @classmethod
    def of(cls, tensor: Tensor, mask: Tensor) -> PrunedWeight:
        """What `mask` keeps of `tensor`."""
        values = tensor.detach()
        return cls(torch.where(mask, values, torch.zeros_like(values)), mask)

    @property
    def weight_bits(self) -> int:
        """Bits of an element."""
        return self.tensor.element_size() * 8

    @property
    def is_sparse(self) -> bool:
        """True where a mask saves space."""
        return is_smaller_sparse(self.mask, self.weight_bits)

    def dense(self) -> Tensor:
        """See the base class."""
        return self.tensor

    def expand(self, base: str, before: Node | None, rewriter: Rewriter, mask: Value | None = None) -> Value:
        """See the base class. One that is not sparse becomes a constant."""
        if not self.is_sparse:
            return rewriter.add_constant(base, self.tensor)
        operands = {
            "values": rewriter.add_constant(f"{base}_nonzero_data", self.tensor[self.mask]),
            "mask": mask or rewriter.add_constant(f"{base}_mask", self.mask),
        }
        return rewriter.insert_before(before, "quant.sparse_to_dense", operands, name=node_name(base, "dense")).result


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


@PruningAlgorithm.register("magnitude")
@PruningAlgorithm.register("default")
class MagnitudePruning(PruningAlgorithm):
    """The ``round(sparsity * n)`` smallest of n elements become zeros (half to even), or as many of n channels, of n
    blocks, or of every n elements in a row.

    Elements count by magnitude, channels and blocks by their Euclidean norm, in float64. Of equal ones, the first in
    row-major order go first, so that the number of zeros is exact.
    """

    @staticmethod
    def zeros(sparsity: float, count: int) -> int:
        """How many of `count` go."""
        return round(sparsity * count)

    def mask(self, weight: Tensor, sparsity: float, scheme: PruningScheme) -> Tensor:
        """See `PruningAlgorithm.mask`.

        Raises:
            PruningError: for an axis that the weight does not have.
        """
        if isinstance(scheme, ChannelStructured):
            return self._of_channels(weight, sparsity, _axis_of(scheme, weight))
        if isinstance(scheme, BlockStructured):
            return self._of_blocks(weight, sparsity, _axis_of(scheme, weight), scheme.block_size)
        if isinstance(scheme, NMStructured):
            return self._of_groups(weight, sparsity, _axis_of(scheme, weight), scheme.m)
        return self._largest(weight.abs().reshape(-1), sparsity).reshape(weight.shape)

    def _of_channels(self, weight: Tensor, sparsity: float, axis: int) -> Tensor:
        rows = weight.movedim(axis, 0).reshape(weight.shape[axis], -1).double()
        kept = self._largest(torch.linalg.vector_norm(rows, dim=1), sparsity)
        shape = [1] * weight.ndim
        shape[axis] = weight.shape[axis]
        return kept.reshape(shape).expand(weight.shape).contiguous()

    def _of_blocks(self, weight: Tensor, sparsity: float, axis: int, size: int) -> Tensor:
        norms = torch.linalg.vector_norm(_cut(weight, axis, size).double(), dim=-1)
        kept = self._largest(norms.reshape(-1), sparsity).reshape(norms.shape)
        return _joined(kept[..., None].expand(*norms.shape, size), axis, weight)

    def _of_groups(self, weight: Tensor, sparsity: float, axis: int, m: int) -> Tensor:
        groups = _cut(weight.abs(), axis, m)
        groups = torch.where(_joined_places(weight, axis, m), groups, torch.full_like(groups, -1.0))
        order = groups.sort(dim=-1, stable=True).indices.argsort(-1)
        return _joined(order >= self.zeros(sparsity, m), axis, weight)

    def _largest(self, scores: Tensor, sparsity: float) -> Tensor:
        return largest(scores, self.zeros(sparsity, scores.numel()))


@PruningAlgorithm.register("magnitude_floor")
class FlooredMagnitudePruning(MagnitudePruning):
    """As `MagnitudePruning`, with ``floor(sparsity * n)`` zeros of n."""

    @staticmethod
    def zeros(sparsity: float, count: int) -> int:
        """See the base class. A product that is a whole number but for rounding is that number."""
        return math.floor(round(sparsity * count, 9))


def largest(scores: Tensor, zeros: int) -> Tensor:
    """True for all of the 1-D `scores` but the `zeros` smallest, of equal ones the first."""
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = torch.kthvalue(scores, zeros).values
    kept = scores > threshold
    ties = torch.nonzero(scores == threshold).reshape(-1)
    kept[ties[zeros - int((scores < threshold).sum()) :]] = True
    return kept


def _axis_of(scheme: ChannelStructured | BlockStructured | NMStructured, weight: Tensor) -> int:
    rank, axis = weight.ndim, scheme.axis
    if not -rank <= axis < rank:
        raise PruningError(
            f"axis {axis} of {type(scheme).__name__} is none of shape {tuple(weight.shape)}; accepted: {-rank} to "
            f"{rank - 1}"
        )
    return axis % rank


def _cut(weight: Tensor, axis: int, size: int) -> Tensor:
    """`weight` with `axis` last, in rows of `size` elements, the last one filled up with zeros."""
    rows = weight.movedim(axis, -1)
    return pad(rows, (0, -rows.shape[-1] % size)).unflatten(-1, (-1, size))


def _joined(rows: Tensor, axis: int, weight: Tensor) -> Tensor:
    """The inverse of `_cut`."""
    return rows.flatten(-2)[..., : weight.shape[axis]].movedim(-1, axis).contiguous()


def _joined_places(weight: Tensor, axis: int, size: int) -> Tensor:
    """True where `_cut` has an element of `weight`."""
    return _cut(torch.ones_like(weight), axis, size).bool()


def is_smaller_sparse(mask: Tensor, bits: int) -> bool:
    """True where a mask of one bit per element and the kept elements of `bits` bits take less than all elements do.

    Without zeros, and with nothing but zeros, there is nothing to gain: a constant of one value takes no space.
    """
    kept = int(mask.sum())
    return kept > 0 and mask.numel() + kept * bits < mask.numel() * bits
