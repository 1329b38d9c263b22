"""Quantization in either mode: prepare, calibrate, evaluate, finalize."""

import importlib
import resource
from typing import Any

import torch
from torch import nn

from graphpress.tools.bench.worker.clock import ExportClock, Outcome, median_of, timed
from graphpress.tools.bench.worker.subject import build_subject


def quantize_model(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Take the model through the default configuration.

    Optional arguments: `forwards` (default 5; 0 skips running the model) is how many calls the medians of the
    forwards are over, `finalize` (default true) whether to end with one, and `mode` the execution mode.
    """
    quantization = importlib.import_module(f"{package}.quantization")
    backend = importlib.import_module(package).ExportBackend.CoreAI
    model, inputs = build_subject(task)
    outcome = Outcome()

    config = quantization.QuantizerConfig(execution_mode=quantization.ExecutionMode(task.get("mode", "graph")))
    quantizer = quantization.Quantizer(model, config)
    with exports.seconds() as exporting:
        prepared = outcome.measure("prepare", lambda: quantizer.prepare(inputs))
    outcome.seconds["exports inside prepare"] = exporting
    outcome.seconds["prepare without exports"] = {
        clock: seconds - exporting[clock] for clock, seconds in outcome.seconds["prepare"].items()
    }
    outcome.facts["fake-quantizers"] = _fake_quantizers(prepared)
    outcome.facts["nodes prepared"] = _nodes(prepared)
    outcome.facts["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with quantizer.calibration_mode():
        forwards = task.get("forwards", 5)
        _time_forwards(outcome, model, prepared, inputs, forwards, "calibration step")
    _time_forwards(outcome, model, prepared, inputs, forwards, "evaluation forward")
    if task.get("finalize", True):
        finalized = outcome.measure("finalize", lambda: quantizer.finalize(backend=backend))
        outcome.facts["nodes finalized"] = _nodes(finalized)
    return outcome


def _time_forwards(
    outcome: Outcome,
    model: nn.Module,
    prepared: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    count: int,
    name: str,
) -> None:
    """Time `prepared` under `name`, and the float model between its calls, so both see the same machine."""
    floats, prepareds = [], []
    with torch.no_grad():
        prepared(*inputs)  # the first call of either pays for caches
        for _ in range(count):
            floats.append(timed(lambda: model(*inputs))[1])
            prepareds.append(timed(lambda: prepared(*inputs))[1])
    if count:
        outcome.seconds[f"float forward beside {name}"] = median_of(floats)
        outcome.seconds[name] = median_of(prepareds)


def _fake_quantizers(module: nn.Module) -> int:
    return sum("fakequant" in type(child).__name__.lower() for child in module.modules())


def _nodes(module: nn.Module) -> int:
    return len(module.graph.nodes) if isinstance(module, torch.fx.GraphModule) else 0
