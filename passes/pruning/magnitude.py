"""Pruning by magnitude: the smallest elements, or the channels of least norm, become zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from graphpress.passes.pruning.algorithm import PruningAlgorithm
from graphpress.passes.pruning.errors import PruningError
from graphpress.passes.specs.pruning import ChannelStructured, PruningScheme


@PruningAlgorithm.register("magnitude")
@PruningAlgorithm.register("default")
class MagnitudePruning(PruningAlgorithm):
    """The ``round(sparsity * n)`` smallest of n elements become zeros (half to even), or as many of n channels.

    Elements count by magnitude, channels by their Euclidean norm, in float64. Of equal ones, the first in row-major
    order go first, so that the number of zeros is exact.
    """

    def mask(self, weight: Tensor, sparsity: float, scheme: PruningScheme) -> Tensor:
        """See `PruningAlgorithm.mask`.

        Raises:
            PruningError: for channels along an axis that the weight does not have.
        """
        if not isinstance(scheme, ChannelStructured):
            return largest(weight.abs().reshape(-1), sparsity).reshape(weight.shape)
        rank, axis = weight.ndim, scheme.axis
        if not -rank <= axis < rank:
            raise PruningError(
                f"axis {axis} of ChannelStructured is none of shape {tuple(weight.shape)}; accepted: {-rank} to "
                f"{rank - 1}"
            )
        rows = weight.movedim(axis, 0).reshape(weight.shape[axis], -1).double()
        kept = largest(torch.linalg.vector_norm(rows, dim=1), sparsity)
        shape = [1] * rank
        shape[axis] = weight.shape[axis]
        return kept.reshape(shape).expand(weight.shape).contiguous()


def largest(scores: Tensor, sparsity: float) -> Tensor:
    """True for all of the 1-D `scores` but the ``round(sparsity * n)`` smallest, of equal ones the first."""
    zeros = round(sparsity * scores.numel())
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = torch.kthvalue(scores, zeros).values
    kept = scores > threshold
    ties = torch.nonzero(scores == threshold).reshape(-1)
    kept[ties[zeros - int((scores < threshold).sum()) :]] = True
    return kept
