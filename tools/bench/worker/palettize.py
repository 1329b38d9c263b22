"""Palettization: prepare, finalize, and a forward of what comes out."""

import importlib
from typing import Any

import torch

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
        outcome.measure("prepare", lambda: palettizer.prepare(inputs))
        finalized = outcome.measure("finalize", lambda: palettizer.finalize(backend=backend))
        compressed = [timed(lambda: finalized(*inputs))[1] for _ in range(4)][1:]
    outcome.seconds["float forward beside finalized forward"] = median_of(plain)
    outcome.seconds["finalized forward"] = median_of(compressed)
    return outcome
