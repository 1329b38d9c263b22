"""Palettization: prepare, finalize, the error, a forward of what comes out, and the floor of scalar clustering."""

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphpress.tools.bench.worker.clock import ExportClock, Outcome, median_of, timed
from graphpress.tools.bench.worker.subject import build_subject


def palettize_model(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Palettize every weight with `task["bits"]`, in groups of `task["group"]` output channels if given.

    `task["vector"]` (default 1) is the length of a centroid.
    """
    palettization = importlib.import_module(f"{package}.palettization")
    spec = importlib.import_module(f"{package}.palettization.spec")
    backend = importlib.import_module(package).ExportBackend.CoreAI
    model, inputs = build_subject(task)
    before = {name: model.get_parameter(f"{name}.weight").detach().clone() for name in _names(model)}
    outcome = Outcome()

    group = task.get("group")
    granularity = spec.PerGroupedChannelGranularity(axis=0, group_size=group) if group else spec.PerTensorGranularity()
    weight = spec.PalettizationSpec(n_bits=task["bits"], granularity=granularity, cluster_dim=task.get("vector", 1))
    # The peer's fast mode clusters scalars only.
    options = {"enable_fast_kmeans_mode": False} if weight.cluster_dim > 1 else {}
    config = palettization.KMeansPalettizerConfig(
        global_config=palettization.ModuleKMeansPalettizerConfig(op_state_spec={"weight": weight}, **options)
    )
    with torch.no_grad():
        plain = [timed(lambda: model(*inputs))[1] for _ in range(4)][1:]
        palettizer = palettization.KMeansPalettizer(model, config)
        prepared = outcome.measure("prepare", lambda: palettizer.prepare(inputs))
        after = {name: prepared.get_submodule(name).weight.detach() for name in before}
        outcome.facts["weights"] = len(before)
        outcome.weights = {
            name: (_squares(after[name].double() - weight.double()), _squares(weight.double()))
            for name, weight in before.items()
            if not torch.equal(after[name], weight)
        }
        if package == "graphpress" and weight.cluster_dim == 1:
            _measure_floor(outcome, before, after, group)
        del before, after
        finalized = outcome.measure("finalize", lambda: palettizer.finalize(backend=backend))
        compressed = [timed(lambda: finalized(*inputs))[1] for _ in range(4)][1:]
    outcome.seconds["float forward beside finalized forward"] = median_of(plain)
    outcome.seconds["finalized forward"] = median_of(compressed)
    return outcome


def _names(model: nn.Module) -> list[str]:
    """The modules whose weights are palettized by default, one of those that share a tensor."""
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            found.setdefault(weight.data_ptr(), name)
    return list(found.values())


def _squares(tensor: Tensor) -> float:
    return float(tensor.square().sum())


def _measure_floor(outcome: Outcome, before: dict[str, Tensor], after: dict[str, Tensor], group: int | None) -> None:
    """Time what any sorting method pays at least: one sort of each table's values, and one assignment of them."""
    assign_scalar = importlib.import_module("graphpress.passes.clustering").assign_scalar
    rows, tables = [], []
    for name, weight in before.items():
        count = len(weight) // group if group and len(weight) % group == 0 else 1
        values = weight.reshape(count, -1).numpy()
        found = [np.unique(row) for row in after[name].reshape(count, -1).numpy()]
        longest = max(len(table) for table in found)
        if longest > 256:
            continue  # left whole
        rows.append(values)
        tables.append(np.stack([np.pad(table, (0, longest - len(table)), mode="edge") for table in found]))

    def floor() -> None:
        for values, table in zip(rows, tables, strict=True):
            np.sort(values, axis=1)
            assign_scalar(values, table)

    outcome.measure("sort and assignment", floor)
