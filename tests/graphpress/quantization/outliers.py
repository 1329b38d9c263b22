"""An encoder with outlier channels, as trained language models have them: few, and 20 to 100 times larger."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CHANNELS, HIDDEN, TOKENS = 32, 48, 12


class Layer(nn.Module):
    """A block with grouped attention and a gated MLP, RMS norms before both."""

    def __init__(self, kv: int = 16):
        super().__init__()
        self.norm, self.second_norm = nn.RMSNorm(CHANNELS), nn.RMSNorm(CHANNELS)
        self.query, self.output = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.key, self.value = nn.Linear(CHANNELS, kv), nn.Linear(CHANNELS, kv)
        self.gate, self.up = nn.Linear(CHANNELS, HIDDEN), nn.Linear(CHANNELS, HIDDEN)
        self.down = nn.Linear(HIDDEN, CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        query, key, value = (
            part(normed).unflatten(-1, (-1, 8)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        normed = self.second_norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


class Encoder(nn.Module):
    """An embedding, blocks, a norm and a head."""

    def __init__(self, layers: int = 2):
        super().__init__()
        self.embedding = nn.Embedding(40, CHANNELS)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(CHANNELS), nn.Linear(CHANNELS, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def encoder(seed: int = 0) -> Encoder:
    """A seeded encoder whose norms, values and gated products have outlier channels."""
    torch.manual_seed(seed)
    model = Encoder().eval()
    with torch.no_grad():
        for layer in model.layers:
            for norm in (layer.norm, layer.second_norm):
                norm.weight[[5, 9]] *= 50
            for part in (layer.query, layer.key, layer.value, layer.gate, layer.up):
                part.weight[:, [5, 9]] /= 25
            layer.value.weight[2] *= 20
            layer.up.weight[7] *= 20
    return model


def with_outliers_in_the_stream(model: Encoder) -> Encoder:
    """The encoder with a channel of its residual stream that no norm undoes."""
    with torch.no_grad():
        model.embedding.weight[:, 3] *= 30
    return model


def batches(model: nn.Module, count: int = 4, seed: int = 1) -> list[torch.Tensor]:
    """Seeded batches of token ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 40, (4, TOKENS), generator=generator) for _ in range(count)]


def snr(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The signal-to-noise ratio in dB."""
    noise = (found - expected).double().square().sum()
    return float(10 * torch.log10(expected.double().square().sum() / noise))


def three_layers() -> nn.Sequential:
    """Three layers, of which the second reads a channel that is far wider than the others."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8)).eval()
    with torch.no_grad():
        made[1].weight[3] *= 100
        made[2].weight[:, 3] /= 100
    return made
