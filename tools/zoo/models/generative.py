"""Generators, autoencoders, and a denoiser with timesteps."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphpress.tools.zoo.entry import Inputs, ZooModel
from graphpress.tools.zoo.models.hub import normal


def _generator() -> nn.Module:
    layers: list[nn.Module] = [nn.ConvTranspose2d(16, 32, 4), nn.BatchNorm2d(32), nn.ReLU()]
    layers += [nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 1, groups=1), nn.Tanh())


class Autoencoder(nn.Module):
    """A variational autoencoder that returns the mean's reconstruction."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 48), nn.SiLU(), nn.Linear(48, 16))
        self.decode = nn.Sequential(nn.Linear(8, 48), nn.SiLU(), nn.Linear(48, 64), nn.Sigmoid())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the reconstruction and both moments."""
        mean, log_variance = self.encode(x).chunk(2, -1)
        return {"out": self.decode(mean), "mean": mean, "deviation": torch.exp(0.5 * log_variance)}


class Block(nn.Module):
    """Two convolutions with group norms; the time shifts the first one's result."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inner, outer, 3, 1, 1), nn.Conv2d(outer, outer, 3, 1, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(4, outer), nn.GroupNorm(4, outer)])
        self.time = nn.Linear(32, outer)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return `(batch, outer, height, width)`."""
        hidden = F.silu(self.norms[0](self.first(x))) + self.time(time)[:, :, None, None]
        return F.silu(self.norms[1](self.second(hidden))) + self.skip(x)


class Denoiser(nn.Module):
    """A UNet with sinusoidal embeddings of integer timesteps."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = Block(3, 16), Block(16, 32), Block(48, 16)
        self.out = nn.Conv2d(16, 3, 1)
        self.embed = nn.Sequential(nn.Linear(32, 32), nn.SiLU())

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Return the noise in `x` at each row's step."""
        frequencies = torch.exp(torch.arange(16) * (-math.log(1e4) / 16))
        angles = step[:, None] * frequencies
        time = self.embed(torch.cat([angles.sin(), angles.cos()], -1).to(x.dtype))  # the model may be of float16
        fine = self.enter(x, time)
        coarse = self.middle(F.avg_pool2d(fine, 2), time)
        return self.out(self.leave(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1), time))


def _noisy(generator: torch.Generator, batch: int) -> Inputs:
    image = torch.randn(batch, 3, 16, 16, generator=generator)
    return image, torch.randint(0, 1000, (batch,), generator=generator)


class SuperResolution(nn.Module):
    """Residual blocks and a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 24, 3, 1, 1), nn.Conv2d(24, 12, 3, 1, 1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1), nn.PReLU(24), nn.Conv2d(24, 24, 3, 1, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the image at twice its size."""
        hidden = self.head(x)
        for block in self.body:
            hidden = hidden + block(hidden) * 0.5
        return F.pixel_shuffle(self.tail(hidden), 2).clamp(-1, 1)


MODELS = (
    ZooModel("gan generator", "generative", _generator, normal(16, 1, 1)),
    ZooModel("autoencoder", "generative", Autoencoder, normal(64)),
    ZooModel("denoising unet", "generative", Denoiser, _noisy),
    ZooModel("super resolution", "generative", SuperResolution, normal(3, 16, 16)),
)
