"""Two networks for 8x8 images: separable convolutions, and a small vision transformer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ConvNet(nn.Module):
    """`[N, 1, 8, 8]` images to `[N, 10]` logits: a stem, separable blocks, two of them halving, and a linear head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = _layer(1, width)
        self.blocks = nn.Sequential(*(Separable(width, stride) for stride in (1, 2, 1, 2)))
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        features: torch.Tensor = self.blocks(self.stem(images))
        logits: torch.Tensor = self.head(features.mean((2, 3)))
        return logits


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, each with norm and relu: `[N, width, H, W]`, halved by a stride of 2."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _layer(width, width, stride=stride, groups=width)
        self.pointwise = _layer(width, width, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of the block."""
        features: torch.Tensor = self.pointwise(self.depthwise(x))
        return features


def _layer(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


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
