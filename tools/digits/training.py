"""The training loop that made the packaged weights; quantization-aware training of the tests goes through it too."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from graphpress.tools.digits.data import digits


def train(
    model: nn.Module,
    epochs: int,
    *,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    batch: int = 32,
    seed: int = 0,
) -> None:
    """Train `model` in place with AdamW, the learning rate falling to zero along half a cosine.

    Nothing but the order of the data is drawn from `seed`; dropout takes torch's global generator.
    """
    data = digits()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * (len(data.train_labels) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(data.train_labels), generator=generator)
        for chosen in order.split(batch):
            if len(chosen) < batch:
                continue
            loss = cross_entropy(model(data.train_images[chosen]), data.train_labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
