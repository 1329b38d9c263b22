"""Random orthogonal matrices that spread a channel over all others."""

from __future__ import annotations

import torch
from torch import Tensor


def random_hadamard(channels: int, seed: int = 0) -> Tensor:
    """Return a random orthogonal matrix with entries of similar magnitude, [channels, channels], float64.

    For a power of two it is a Hadamard matrix, scaled to be orthogonal, with random signs of its rows (arXiv
    2404.00456, section 3). With an odd factor it is the Kronecker product with a random orthogonal matrix of that size.
    """
    generator = torch.Generator().manual_seed(seed)
    power = channels & -channels
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < power:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    matrix = matrix / power**0.5
    if power < channels:
        matrix = torch.kron(matrix, _random_orthogonal(channels // power, generator))
    signs = torch.randint(0, 2, (channels, 1), generator=generator, dtype=torch.float64) * 2 - 1
    return signs * matrix


def _random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Return an orthogonal matrix of uniform distribution (Mezzadri, arXiv math-ph/0609050)."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).contiguous()
