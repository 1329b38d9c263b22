"""The digits data of scikit-learn, which comes with that library: 1,797 images of 8x8 pixels, 10 classes."""

from __future__ import annotations

from functools import cache

import attrs
import torch
from torch import nn

TEST_COUNT = 897


@attrs.frozen(eq=False)
class Digits:
    """Images float32 `[N, 1, 8, 8]` in [0, 1] and labels int64 `[N]`: 900 to train with and 897 held out."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


@cache
def digits() -> Digits:
    """The data, always split in the same way. The tensors are shared: leave them as they are."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = torch.tensor(loaded.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(loaded.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_COUNT], order[TEST_COUNT:]
    return Digits(images[train], labels[train], images[test], labels[test])


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of `images` that `model` classifies as `labels`, in [0, 1]."""
    predicted: torch.Tensor = model(images).argmax(1)
    return (predicted == labels).float().mean().item()
