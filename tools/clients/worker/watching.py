"""Measures what a client does with the compressors of its side."""

from __future__ import annotations

import copy
import importlib
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@attrs.define
class Watched:
    """What the compressors of a client did.

    Attributes:
        floating: a copy of the last compressor's model before it.
        inputs: its example inputs.
        decibels: signal to noise of the first output of every finalized model, before the client goes on with it.
        seconds: CPU seconds of `prepare` and `finalize` of all, with those of their child processes.
    """

    floating: nn.Module | None = None
    inputs: tuple[Any, ...] = ()
    decibels: list[float] = attrs.field(factory=list)
    seconds: dict[str, float] = attrs.field(factory=lambda: {"prepare": 0.0, "finalize": 0.0})

    def figures(self) -> dict[str, Any]:
        """Return the seconds, and the mean of the decibels."""
        mean = round(sum(self.decibels) / len(self.decibels), 2) if self.decibels else None
        return {"decibels": mean, **self.seconds}

    def compare(self, finalized: nn.Module) -> None:
        """Add to `decibels`."""
        assert self.floating is not None
        meant, got = (self._output(model) for model in (self.floating, finalized))
        noise = (meant - got).square().sum()
        if noise:
            self.decibels.append(float(10 * torch.log10(meant.square().sum() / noise)))

    def _output(self, model: nn.Module) -> Tensor:
        inputs = pytree.tree_map_only(Tensor, torch.clone, self.inputs)
        with torch.no_grad():
            first: Tensor = pytree.tree_leaves(model(*inputs))[0]
        return first.double()


@contextmanager
def watching() -> Iterator[Watched]:
    """Record what compressors do inside; their classes are as before afterwards."""
    watched = Watched()
    kinds: list[Any] = [
        importlib.import_module("coreai_opt.quantization").Quantizer,
        importlib.import_module("coreai_opt.palettization").KMeansPalettizer,
    ]
    before = [(kind, name, getattr(kind, name)) for kind in kinds for name in ("__init__", "prepare", "finalize")]
    for kind, name, original in before:
        setattr(kind, name, _recording(watched, name, original))
    try:
        yield watched
    finally:
        for kind, name, original in before:
            setattr(kind, name, original)


def _recording(watched: Watched, name: str, original: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name == "__init__":
            watched.floating = copy.deepcopy(args[0])
            return original(self, *args, **kwargs)
        if name == "prepare":
            watched.inputs = pytree.tree_map_only(Tensor, torch.clone, kwargs.get("example_inputs") or args[0])
        start = _cpu_seconds()
        result = original(self, *args, **kwargs)
        watched.seconds[name] += _cpu_seconds() - start
        if name == "finalize":
            watched.compare(result)
        return result

    return call


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
