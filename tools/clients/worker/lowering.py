"""Runs ExecuTorch's Core AI front end: its quantizer, which imports `coreai_opt`, and its partitioner."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from graphpress.tools.clients.worker.watching import watching


def lower() -> dict[str, Any]:
    """Quantize a small network by `CoreAIQuantizer`, lower it whole, and return the bytes of the ExecuTorch program."""
    quantizer_kind: Any = importlib.import_module("executorch.backends.apple.coreai.quantizer").CoreAIQuantizer
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(2304, 512), nn.ReLU(), nn.Linear(512, 10)),
    ).eval()
    example = (torch.randn(4, 3, 8, 8),)
    with watching() as watched:
        quantizer = quantizer_kind(model)
        prepared = quantizer.prepare(example)
        with quantizer.calibration_mode():
            prepared(*example)
        converted = quantizer.convert()
    exported = torch.export.export(converted, example, strict=True)
    _name_graphs()
    partition: Any = importlib.import_module("executorch.backends.apple.coreai.partition.partitioner")
    exir: Any = importlib.import_module("executorch.exir")
    edge = exir.to_edge_transform_and_lower(exported, partitioner=[partition.CoreAIPartitioner()])
    calls = [str(node.target) for node in edge.exported_program().graph.nodes if node.op == "call_function"]
    left = [call for call in calls if "call_delegate" not in call and "getitem" not in call]
    error = f"{len(left)} ops are left to ExecuTorch: {', '.join(left[:3])}" if left else None
    return {"error": error, "bytes": len(edge.to_executorch().buffer), **watched.figures()}


def _name_graphs() -> None:
    """Give classes of the released core `get_graph`, which ExecuTorch calls and they have under a private name."""
    for kind in list(vars(importlib.import_module("coreai.authoring")).values()):
        if isinstance(kind, type) and hasattr(kind, "_get_graph") and not hasattr(kind, "get_graph"):
            kind.get_graph = kind._get_graph  # type: ignore[attr-defined]
