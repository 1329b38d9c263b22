"""A small vision transformer for 8x8 images (Dosovitskiy et al., 2020, arXiv 2010.11929)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head self-attention through `scaled_dot_product_attention`: `[N, tokens, width]` to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the tokens tell each other."""
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        result: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape, `[N, tokens, width]`."""
        x = x + self.attention(self.norm1(x))
        result: torch.Tensor = x + self.perceptron(self.norm2(x))
        return result


class Transformer(nn.Module):
    """`[N, 1, 8, 8]` images, whose 8 rows are the tokens, to `[N, 10]` logits."""

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.positions = nn.Parameter(0.1 * torch.randn(8, width))
        self.layers = nn.Sequential(*(Layer(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        tokens = self.layers(self.rows(images.flatten(1, 2)) + self.positions)
        logits: torch.Tensor = self.head(self.norm(tokens).mean(1))
        return logits
