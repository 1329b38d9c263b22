"""The training loop of the classifiers, and a loss that pulls a model towards the one it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, softmax

from graphpress.tools.digits.trained import digits

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


class Distillation:
    """How far `student` is from `teacher`, in its logits and in the outputs of its layers.

    Logits are compared by their Kullback-Leibler divergence at a temperature (Hinton et al., arXiv 1503.02531), layers
    by their squared error in shares of the teacher's variance (after FitNets, Romero et al., arXiv 1412.6550). Labels
    are not looked at. It listens to both models until the `with` block ends::

        with Distillation(prepared, model, layers) as loss:
            train(prepared, epochs=2, loss=loss)

    Args:
        layers: paths of submodules that both models have, each of which returns one tensor.
        temperature: what logits are divided by.
        layer_weight: what the mean over the layers counts beside the logits.

    Raises:
        AttributeError: for a path that one of the models lacks, such as that of any layer in a model that was prepared
            in graph mode.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        layers: Iterable[str],
        *,
        temperature: float = 3.0,
        layer_weight: float = 30.0,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.temperature, self.layer_weight = temperature, layer_weight
        self._layers = [(student.get_submodule(path), teacher.get_submodule(path)) for path in layers]
        self._outputs: dict[nn.Module, Tensor] = {}
        self._hooks = [module.register_forward_hook(self._remember) for pair in self._layers for module in pair]

    def __enter__(self) -> Distillation:
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._outputs.clear()

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, 0-d; `labels` are ignored."""
        with torch.no_grad():
            wanted = self.teacher(images) / self.temperature
        given = self.student(images) / self.temperature
        divergence = kl_div(log_softmax(given, -1), softmax(wanted, -1), reduction="batchmean")
        result = self.temperature**2 * divergence
        if self._layers:
            result = result + self.layer_weight * torch.stack([self._error(*pair) for pair in self._layers]).mean()
        return result

    def _error(self, student: nn.Module, teacher: nn.Module) -> Tensor:
        wanted = self._outputs[teacher]
        return mse_loss(self._outputs[student], wanted) / wanted.var()

    def _remember(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._outputs[module] = output
