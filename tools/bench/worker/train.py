"""Quantization-aware training: a step of the prepared model, beside a step of the float model."""

import copy
import importlib
import resource
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graphpress.tools.bench.worker.clock import ExportClock, Outcome, median_of, timed
from graphpress.tools.bench.worker.subject import build_subject


def train_model(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Train the model, prepared by the default configuration, for some steps.

    A step is forward, backward and an update by SGD. Optional arguments: `steps` (default 5) is how many the medians
    are over, and `mode` the execution mode.
    """
    quantization = importlib.import_module(f"{package}.quantization")
    model, inputs = build_subject(task)
    outcome = Outcome()
    floating = copy.deepcopy(model).train()
    config = quantization.QuantizerConfig(execution_mode=quantization.ExecutionMode(task.get("mode", "graph")))
    quantizer = quantization.Quantizer(model, config)
    prepared = quantizer.prepare(inputs)
    with quantizer.training_mode():
        steps = [_training_step(each, inputs) for each in (floating, prepared)]
        seconds: list[list[dict[str, float]]] = [[], []]
        for step in steps:  # the first one pays for caches
            step()
        for _ in range(task.get("steps", 5)):
            for step, runs in zip(steps, seconds, strict=True):
                runs.append(timed(step)[1])
    outcome.seconds["float training step"], outcome.seconds["training step"] = map(median_of, seconds)
    outcome.facts["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return outcome


def _training_step(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    # A rate of almost nothing: the weights are random, and must not run away.
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        model(*inputs).float().square().mean().backward()
        optimizer.step()

    return step
