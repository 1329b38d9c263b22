"""The model of a task, and timing of calls."""

from __future__ import annotations

import gc
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs
import torch
from torch import nn

from graphpress.tools import models
from graphpress.tools.edsr.model import EDSR
from graphpress.tools.models import MODELS, randomize


def build_subject(task: dict[str, Any]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Build `task["model"]`, with `task["arguments"]` for its factory, and its example inputs.

    `edsr` is the untrained network on a 48x48 image; the other names are those of `MODELS`, or, with `"zoo": true`, of
    the zoo, whose environments have transformers.
    """
    name = task["model"]
    if task.get("zoo"):
        entry = importlib.import_module("graphpress.tools.zoo.models").every()[name]
        return entry.build(), entry.example()
    if name == "edsr":
        return randomize(EDSR()), (torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1)),)
    model = getattr(models, name)(**task.get("arguments", {}))
    return model, MODELS[name].example_inputs()


T = TypeVar("T")
Seconds = dict[str, float]


@attrs.define
class Outcome:
    """The measurements of a task: `seconds[name]` has `cpu` and `wall`, `facts[name]` a count or a size.

    `weights[name]` has the squared error and the sum of squares of each compressed weight.
    """

    seconds: dict[str, Seconds] = attrs.field(factory=dict)
    facts: dict[str, float] = attrs.field(factory=dict)
    weights: dict[str, tuple[float, float]] = attrs.field(factory=dict)

    def measure(self, name: str, call: Callable[[], T]) -> T:
        """Time one call under `name` and return what it returned."""
        gc.collect()
        result, self.seconds[name] = timed(call)
        return result


def timed(call: Callable[[], T]) -> tuple[T, Seconds]:
    """Return a call's result, and its CPU seconds (all threads) and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def median_of(runs: list[Seconds]) -> Seconds:
    """Return the medians of CPU and of wall seconds, independently."""
    return {clock: statistics.median(run[clock] for run in runs) for clock in ("cpu", "wall")}


class ExportClock:
    """Accumulates the seconds spent in `torch.export.export`.

    Create it before importing the measured package, which may bind the function by name.
    """

    def __init__(self) -> None:
        self._total = {"cpu": 0.0, "wall": 0.0}
        self._depth = 0
        original = torch.export.export

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                program, seconds = timed(lambda: original(*args, **kwargs))
            finally:
                self._depth -= 1
            if self._depth == 0:  # nested exports are included already
                for clock, value in seconds.items():
                    self._total[clock] += value
            return program

        torch.export.export = counted

    @contextmanager
    def seconds(self) -> Iterator[Seconds]:
        """Yield a dict that holds, after the block, the seconds of the exports inside it."""
        before = dict(self._total)
        inside: Seconds = {}
        yield inside
        inside.update({clock: self._total[clock] - before[clock] for clock in before})
