"""Pruning masks of single weights."""

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
    """Base class of pruning algorithms, selected by `PruningSpec.pruning_algo` as a class or key."""

    @staticmethod
    def register(key: str) -> Callable[[C], C]:
        """Class decorator: register the class under `key` for use in specs."""
        return PRUNING_ALGORITHMS.register(key)

    @abstractmethod
    def mask(self, weight: Tensor, sparsity: float, scheme: PruningScheme) -> Tensor:
        """Return the mask of kept elements: bool, of the shape of `weight`, on its device.

        Args:
            weight: floating, finite, with at least one element; it is not changed.
            sparsity: the fraction of zeros, from 0 to 1.
            scheme: the structure of the zeros.
        """


PRUNING_ALGORITHMS.base = PruningAlgorithm


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
    """Return the mask of kept elements of a weight: bool, of its shape.

    Args:
        weight: the weight, floating.
        spec: the pruning spec.
        sparsity: the fraction of zeros; None for the target of the spec.
        name: the name in error messages.

    Raises:
        PruningError: if the weight is empty or not finite, the axis does not exist, or the algorithm returns no mask.
        SpecError: if `pruning_algo` names no loaded class.
    """
    values = weight.detach()
    if not values.is_floating_point():
        raise PruningError(f"{name} is {values.dtype}; floating weights are pruned")
    if not values.numel():
        raise PruningError(f"{name} of shape {tuple(values.shape)} has no elements to prune")
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise PruningError(f"{name} has {count} values that are not finite; all must be finite")
    wanted = spec.target_sparsity if sparsity is None else sparsity
    try:
        mask = PRUNING_ALGORITHMS.make(spec.pruning_algo).mask(values, wanted, spec.pruning_scheme)
    except PruningError as error:
        raise PruningError(f"{name}: {error}") from error
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool or mask.shape != values.shape:
        raise PruningError(
            f"{name}: pruning_algo {spec.pruning_algo!r} must return a bool tensor of shape {tuple(values.shape)}"
        )
    return mask


@PruningAlgorithm.register("magnitude")
@PruningAlgorithm.register("default")
class MagnitudePruning(PruningAlgorithm):
    """Magnitude pruning of elements, channels or blocks.

    The ``round(sparsity * n)`` smallest of n elements (half to even), channels or blocks, or of every n consecutive
    elements, become zero. Elements count by magnitude, channels and blocks by their Euclidean norm, in float64. Ties
    are broken in row-major order, so that the number of zeros is exact.
    """

    @staticmethod
    def zeros(sparsity: float, count: int) -> int:
        """Return the number of zeros among `count`."""
        return round(sparsity * count)

    def mask(self, weight: Tensor, sparsity: float, scheme: PruningScheme) -> Tensor:
        """Compute the mask; see `PruningAlgorithm.mask`.

        Raises:
            PruningError: if the weight does not have the axis.
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
        norms = torch.linalg.vector_norm(_to_rows(weight, axis, size).double(), dim=-1)
        kept = self._largest(norms.reshape(-1), sparsity).reshape(norms.shape)
        return _from_rows(kept[..., None].expand(*norms.shape, size), axis, weight)

    def _of_groups(self, weight: Tensor, sparsity: float, axis: int, m: int) -> Tensor:
        groups = _to_rows(weight.abs(), axis, m)
        groups = torch.where(_is_element(weight, axis, m), groups, torch.full_like(groups, -1.0))
        order = groups.sort(dim=-1, stable=True).indices.argsort(-1)
        return _from_rows(order >= self.zeros(sparsity, m), axis, weight)

    def _largest(self, scores: Tensor, sparsity: float) -> Tensor:
        return largest(scores, self.zeros(sparsity, scores.numel()))


@PruningAlgorithm.register("magnitude_floor")
class FlooredMagnitudePruning(MagnitudePruning):
    """Magnitude pruning with ``floor(sparsity * n)`` zeros of n."""

    @staticmethod
    def zeros(sparsity: float, count: int) -> int:
        """Return the number of zeros among `count`.

        A product within rounding error of an integer is that integer.
        """
        return math.floor(round(sparsity * count, 9))


def largest(scores: Tensor, zeros: int) -> Tensor:
    """Return False for the `zeros` smallest of the 1-D `scores`, ties in order, and True for all others."""
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


def _to_rows(weight: Tensor, axis: int, size: int) -> Tensor:
    """Return `weight` with `axis` last, in rows of `size` elements, the last one padded with zeros."""
    rows = weight.movedim(axis, -1)
    return pad(rows, (0, -rows.shape[-1] % size)).unflatten(-1, (-1, size))


def _from_rows(rows: Tensor, axis: int, weight: Tensor) -> Tensor:
    """The inverse of `_to_rows`."""
    return rows.flatten(-2)[..., : weight.shape[axis]].movedim(-1, axis).contiguous()


def _is_element(weight: Tensor, axis: int, size: int) -> Tensor:
    """Return True where `_to_rows` holds an element of `weight`, not padding."""
    return _to_rows(torch.ones_like(weight), axis, size).bool()


def is_smaller_sparse(mask: Tensor, bits: int) -> bool:
    """Return True if a one-bit mask and the kept elements of `bits` bits are smaller than all elements.

    False without zeros and with zeros only: a constant of one value takes no space.
    """
    kept = int(mask.sum())
    return kept > 0 and mask.numel() + kept * bits < mask.numel() * bits
