"""Models with Fourier transforms and complex numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.models.hub import VOCABULARY, normal, tokens


class FourierMixing(nn.Module):
    """An encoder of FNet (Lee-Thorp and others, 2021): tokens are mixed by the real part of a transform of two axes."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.mixed = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.mapped = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.inner = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.outer = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.head = nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        """Return class scores of token sequences."""
        x = self.embedding(ids)
        for mixed, mapped, inner, outer in zip(self.mixed, self.mapped, self.inner, self.outer, strict=True):
            x = mixed(x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real)
            x = mapped(x + outer(F.gelu(inner(x))))
        scores: Tensor = self.head(x.mean(1))
        return scores


class SpectrogramClassifier(nn.Module):
    """Convolutions on the logarithm of a mel spectrogram, which is computed from samples."""

    window: Tensor
    bands: Tensor

    def __init__(self, size: int = 64, step: int = 16, bands: int = 16) -> None:
        super().__init__()
        self.size, self.step = size, step
        self.register_buffer("window", torch.hann_window(size))
        self.register_buffer("bands", torch.rand(bands, size // 2 + 1) / size)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(32, 10)

    def forward(self, samples: Tensor) -> Tensor:
        """Return class scores of waveforms."""
        spectrum = torch.stft(samples, self.size, self.step, window=self.window, return_complex=True)
        power = spectrum.abs().square()
        scores: Tensor = self.head(self.layers((self.bands @ power + 1e-5).log().unsqueeze(1)).flatten(1))
        return scores


class Vocoder(nn.Module):
    """Convolutions on mel frames, and a head like that of Vocos (Siuzdak, 2023): size and phase of frames of sound."""

    window: Tensor

    def __init__(self, bands: int = 16, width: int = 48, size: int = 64, step: int = 16) -> None:
        super().__init__()
        self.size, self.step = size, step
        self.register_buffer("window", torch.hann_window(size))
        self.first = nn.Conv1d(bands, width, 7, padding=3)
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, size + 2)

    def forward(self, mel: Tensor) -> Tensor:
        """Return waveforms of mel frames, of shape (batch, bands, frames)."""
        x = self.first(mel)
        y = self.norm(self.depthwise(x).transpose(1, 2))
        x = x.transpose(1, 2) + self.outer(F.gelu(self.inner(y)))
        size, phase = self.head(x).transpose(1, 2).chunk(2, dim=1)
        spectrum = size.exp().clamp(max=100.0) * (torch.cos(phase) + 1j * torch.sin(phase))
        return torch.istft(spectrum, self.size, self.step, window=self.window)


MODELS = (
    ZooModel("fnet", "hand-written", FourierMixing, tokens(16)),
    ZooModel("spectrogram-cnn", "audio", SpectrogramClassifier, normal(1024)),
    ZooModel("istft-vocoder", "audio", Vocoder, normal(16, 24)),
)
