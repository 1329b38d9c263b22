"""The training loop that made the packaged weights; quantization-aware training of the tests goes through it too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
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
    cycle_momentum: bool = True,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    after_step: Callable[[], object] = lambda: None,
    after_epoch: Callable[[], object] = lambda: None,
) -> None:
    """Train `model` in place with AdamW on noisy images; the learning rate rises, then falls to zero along a cosine.

    Momentum goes against the rate, or with `cycle_momentum=False` stays at 0.9. Order and noise are drawn from `seed`;
    dropout takes torch's global generator. `loss` runs the model itself: it takes images `[N, 1, 8, 8]` and labels
    `[N]` and gives a 0-d tensor; without one it is cross-entropy with smoothed labels. `after_step` is called after
    every step of the optimizer, such as `Quantizer.step`, and `after_epoch` after every pass over the images, such as
    `Quantizer.freeze_batch_norm`.
    """

    def from_labels(images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(images), labels, label_smoothing=LABEL_SMOOTHING)

    loss = loss or from_labels
    data = digits()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    steps = epochs * (len(data.train_labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=WARM_UP, cycle_momentum=cycle_momentum
    )
    for _ in range(epochs):
        order = torch.randperm(len(data.train_labels), generator=generator)
        for chosen in order.split(batch):
            if len(chosen) < batch:
                continue
            images = data.train_images[chosen]
            images = images + NOISE * torch.randn(images.shape, generator=generator)
            optimizer.zero_grad()
            loss(images, data.train_labels[chosen]).backward()
            optimizer.step()
            schedule.step()
            after_step()
        after_epoch()
