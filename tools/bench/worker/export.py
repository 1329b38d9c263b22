"""The floors: importing the package, and one `torch.export` of the model."""

import importlib
from typing import Any

import torch

from graphpress.tools.bench.worker.clock import ExportClock, Outcome
from graphpress.tools.bench.worker.subject import build_subject


def import_package(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Time the package's import, torch being there already."""
    outcome = Outcome()
    outcome.measure("import", lambda: importlib.import_module(f"{package}.quantization"))
    return outcome


def export_model(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Time `torch.export.export` of the model, without gradients, as `prepare` traces it."""
    outcome = Outcome()
    model, inputs = build_subject(task)
    with torch.no_grad():
        program = outcome.measure("torch.export", lambda: torch.export.export(model, inputs))
    outcome.facts["nodes exported"] = len(program.graph.nodes)
    return outcome
