"""Photographs to train and judge EDSR on: those inside the scikit-image and scikit-learn packages.

Nothing is downloaded. Training and held-out photographs share no scene.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from graphpress.ir.errors import GraphpressError

TRAINING_FILES = (
    "skimage/data/astronaut.png",
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/coins.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    # Two views of one scene, so both belong on one side.
    "skimage/data/motorcycle_left.png",
    "skimage/data/motorcycle_right.png",
    "skimage/data/page.png",
    "skimage/data/retina.jpg",
    "sklearn/datasets/images/china.jpg",
)
HELDOUT_FILES = (
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/flower.jpg",
)
# Whole scenes with light and shade, as photographs people take have; textures alone would calibrate too narrow a range.
CALIBRATION_SCENES = ("astronaut", "camera", "china", "motorcycle_left", "motorcycle_right")
PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


class PhotographMissing(GraphpressError):
    """The photographs asked for are not there, mostly because the package shipping them is not installed."""


def training_images() -> dict[str, torch.Tensor]:
    """Return the training photographs by name, each float32 [1, 3, H, W] in [0, 1] with even H and W."""
    return {Path(file).stem: _read(file) for file in TRAINING_FILES}


def heldout_images() -> dict[str, torch.Tensor]:
    """Return the photographs no training step sees, in the form of `training_images`."""
    return {Path(file).stem: _read(file) for file in HELDOUT_FILES}


def evaluation_pairs(largest: int = 160) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return (name, low-resolution, high-resolution) for the middle of every held-out photograph.

    The low-resolution side is float32 [1, 3, h, w] with h, w at most `largest`; the other is exactly
    twice that. Evaluating the default size takes seconds on one core.
    """
    pairs = []
    for name, photograph in heldout_images().items():
        high = _middle(photograph, 2 * largest)
        pairs.append((name, downscale(high), high))
    return pairs


def calibration_images(count: int, size: int = 128) -> list[torch.Tensor]:
    """Return `count` low-resolution squares [1, 3, size, size] of training photographs, always the same.

    They go round the whole scenes among the photographs in turn.
    """
    generator = torch.Generator().manual_seed(0)
    photographs = training_images()
    scenes = [downscale(photographs[name]) for name in CALIBRATION_SCENES]
    scenes = [scene for scene in scenes if min(scene.shape[-2:]) >= size]
    if not scenes:
        raise PhotographMissing(f"no training photograph has {size} low-resolution pixels a side; ask for less")
    crops: list[torch.Tensor] = []
    for index in range(count):
        scene = scenes[index % len(scenes)]
        top, left = (int(torch.randint(extent - size + 1, (), generator=generator)) for extent in scene.shape[-2:])
        crops.append(scene[..., top : top + size, left : left + size].contiguous())
    return crops


def downscale(image: torch.Tensor, factor: float = 0.5) -> torch.Tensor:
    """Shrink [1, 3, H, W] by antialiased bicubic filtering, rounded to 8 bits as a stored image would be."""
    size = [round(extent * factor) for extent in image.shape[-2:]]
    smaller = interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True)
    return (smaller.clamp(0, 1) * 255).round() / 255


def bicubic_upscale(lr: torch.Tensor) -> torch.Tensor:
    """Double the size of [N, 3, h, w] by bicubic interpolation: what the trained model has to beat."""
    return interpolate(lr, scale_factor=2, mode="bicubic", align_corners=False, antialias=True)


def psnr(a: torch.Tensor, b: torch.Tensor, border: int = 2) -> float:
    """Return the peak signal-to-noise ratio in dB over RGB, clamped to [0, 1], `border` pixels shaved."""
    a, b = (image.clamp(0, 1)[..., border : -border or None, border : -border or None] for image in (a, b))
    return float(-10 * torch.log10((a.double() - b.double()).square().mean()))


def _read(file: str) -> torch.Tensor:
    from PIL import Image  # only these tools need it

    package, _, path = file.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise PhotographMissing(f"{file} needs the package {package!r}; install {PACKAGES[package]!r}")
    with Image.open(Path(spec.origin).parent / path) as image:
        pixels = np.array(image.convert("RGB"))
    height, width = (extent // 2 * 2 for extent in pixels.shape[:2])
    return torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)[None].float().contiguous() / 255


def _middle(image: torch.Tensor, largest: int) -> torch.Tensor:
    height, width = (min(extent, largest) for extent in image.shape[-2:])
    # Even offsets keep both sides aligned to the same two-by-two blocks.
    top, left = (image.shape[-2] - height) // 4 * 2, (image.shape[-1] - width) // 4 * 2
    return image[..., top : top + height, left : left + width].contiguous()
