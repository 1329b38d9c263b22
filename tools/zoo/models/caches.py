"""Models that keep buffers between calls."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphpress.tools.zoo.entry import Inputs, ZooModel


class CachedAttention(nn.Module):
    """Attention of one token to those before it, whose keys and values are buffers."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.project, self.out = nn.Linear(32, 96), nn.Linear(32, 64)
        self.register_buffer("keys", torch.zeros(1, 4, 16, 8))
        self.register_buffer("values", torch.zeros(1, 4, 16, 8))

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        """Return scores of the next token."""
        query, key, value = self.project(self.embedding(token)).reshape(1, 1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        self.keys.index_copy_(2, position, key)
        self.values.index_copy_(2, position, value)
        scores = query @ self.keys.transpose(-1, -2) / 8**0.5
        hidden = torch.arange(16) > position
        attended = scores.masked_fill(hidden, -1e4).softmax(-1) @ self.values
        return self.out(attended.transpose(1, 2).reshape(1, 1, 32))


class Streaming(nn.Module):
    """A causal convolution that keeps the last frames, and a running mean."""

    frames: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 3)
        self.register_buffer("frames", torch.zeros(1, 8, 2))
        self.register_buffer("mean", torch.zeros(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        """Return the frames of one call."""
        joined = torch.cat([self.frames, x], -1)
        self.frames.copy_(joined[:, :, -2:])
        result = F.gelu(self.conv(joined))
        self.mean.copy_(0.9 * self.mean + 0.1 * result.mean(-1))
        return result - self.mean.unsqueeze(-1)


def _step(generator: torch.Generator, batch: int) -> Inputs:
    return torch.randint(0, 64, (1, 1), generator=generator), torch.randint(0, 16, (1,), generator=generator)


def _frames(generator: torch.Generator, batch: int) -> Inputs:
    return (torch.randn(1, 8, 6, generator=generator),)


MODELS = (
    ZooModel("cached attention", "caches", CachedAttention, _step, states=True, batch=1),
    ZooModel("streaming convolution", "caches", Streaming, _frames, states=True, batch=1),
)
