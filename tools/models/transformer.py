"""A small encoder whose attention is spelled out as matmul and softmax, after Vaswani et al., 2017."""

import math

import torch
from torch import nn

from graphpress.tools.models.randomize import randomize


class SelfAttention(nn.Module):
    """Multi-head self-attention from separate projections, in elementary operations."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, tokens, dim)`."""
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.shape[-1])
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, dim = x.shape
        return x.view(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention and a two-layer perceptron, each followed by a shortcut and a layer norm."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.activation = nn.ReLU()
        self.linear2 = nn.Linear(4 * dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, tokens, dim)`."""
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.linear2(self.activation(self.linear1(x))))


class Transformer(nn.Module):
    """Embedded tokens through encoder layers; their mean is classified."""

    def __init__(self, vocabulary: int, dim: int, depth: int, heads: int, num_classes: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.layers = nn.Sequential(*(EncoderLayer(dim, heads) for _ in range(depth)))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens)` int64 ids to `(batch, num_classes)` logits."""
        return self.head(self.layers(self.embedding(tokens)).mean(dim=1))


def small_transformer(seed: int = 0) -> Transformer:
    """2 layers, 32 wide, 4 heads, 100 tokens: 0.03M parameters."""
    return randomize(Transformer(vocabulary=100, dim=32, depth=2, heads=4, num_classes=10), seed)
