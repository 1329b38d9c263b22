"""A loss that pulls a model towards the one it was made from, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, mse_loss, softmax


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
