"""EDSR: a super-resolution network of plain residual blocks (Lim et al., 2017, arXiv 1707.02921)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

WEIGHTS_FILE = Path(__file__).with_name("edsr_x2.safetensors")

# The mean colour of the DIV2K photographs, as in the paper's code.
MEAN_RGB = (0.4488, 0.4371, 0.4040)


class EDSR(nn.Module):
    """Upscale RGB images: float [N, 3, H, W] in [0, 1] to float [N, 3, scale*H, scale*W].

    The paper's baseline: no batch norm, residual scaling 1, one pixel shuffle for the upsampling.
    The output is not clamped; with the default 16 blocks of 64 features there are 1,369,859 parameters.
    """

    def __init__(self, scale: int = 2, blocks: int = 16, features: int = 64) -> None:
        super().__init__()
        self.head = _conv3x3(3, features)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)), _conv3x3(features, features))
        self.tail = nn.Sequential(
            _conv3x3(features, scale * scale * features), nn.PixelShuffle(scale), _conv3x3(features, 3)
        )
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.tensor(MEAN_RGB).reshape(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the upscaled image."""
        shallow = self.head(image - self.mean)
        deep = self.body(shallow)
        upscaled: torch.Tensor = self.tail(shallow + deep)
        return upscaled + self.mean


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input: [N, features, H, W] to the same shape."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(features, features)
        self.relu = nn.ReLU()
        self.conv2 = _conv3x3(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` plus its residual."""
        residual: torch.Tensor = self.conv2(self.relu(self.conv1(x)))
        return x + residual


def load_trained() -> EDSR:
    """Return the x2 model with the packaged weights, in float32 and evaluation mode."""
    with safe_open(WEIGHTS_FILE, framework="pt") as file:
        facts = file.metadata()
        # The file stores float16; nothing is lost that shows in a PSNR.
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    model = EDSR(int(facts["scale"]), int(facts["blocks"]), int(facts["features"]))
    model.load_state_dict(state)
    return model.eval()


def training_record() -> dict[str, str]:
    """Return how the packaged weights came about: steps, seed, and PSNR in dB on the held-out photographs."""
    with safe_open(WEIGHTS_FILE, framework="pt") as file:
        return dict(file.metadata())


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
