"""The training loop that made the packaged weights; quantization-aware training of the tests goes through it too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from graphpress.tools.digits.data import digits

LABEL_SMOOTHING = 0.1
NOISE = 0.1  # standard deviation of what is added to pixels, which lie in [0, 1]
WARM_UP = 0.1  # share of the steps in which the learning rate rises


def train(
    model: nn.Module,
    epochs: int,
    *,
    learning_rate: float = 5e-3,
    batch: int = 32,
    seed: int = 0,
    after_step: Callable[[], object] = lambda: None,
) -> None:
    """Train `model` in place with AdamW on noisy images; the learning rate rises, then falls to zero along a cosine.

    Order and noise are drawn from `seed`; dropout takes torch's global generator. `after_step` is called after every
    step of the optimizer, such as `Quantizer.step`.
    """
    data = digits()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    steps = epochs * (len(data.train_labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=WARM_UP)
    for _ in range(epochs):
        order = torch.randperm(len(data.train_labels), generator=generator)
        for chosen in order.split(batch):
            if len(chosen) < batch:
                continue
            images = data.train_images[chosen]
            images = images + NOISE * torch.randn(images.shape, generator=generator)
            loss = cross_entropy(model(images), data.train_labels[chosen], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            after_step()
