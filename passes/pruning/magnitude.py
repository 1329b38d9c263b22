"""Pruning by magnitude: the smallest elements, or the channels or blocks of least norm, become zeros."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from graphpress.passes.pruning.algorithm import PruningAlgorithm
from graphpress.passes.pruning.errors import PruningError
from graphpress.passes.specs.pruning import BlockStructured, ChannelStructured, NMStructured, PruningScheme


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
