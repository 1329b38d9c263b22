"""Run an order: `python -m graphpress.tools.zoo.worker`, with the order as one JSON object on stdin.

One JSON object is written per stage to stdout, one a line. What is printed by the packages goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from graphpress.tools.zoo import models
from graphpress.tools.zoo.torchvision_schemas import declare
from graphpress.tools.zoo.worker.forking import Order, Report, run
from graphpress.tools.zoo.worker.stage import Fault, Skipped, StageRun


def main() -> None:
    """Run the order of stdin."""
    order = Order(**json.load(sys.stdin))
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    module = importlib.import_module(f"graphpress.tools.zoo.worker.{order.side}")
    every = models.every()
    _warm(module.IMPORTS)
    module.prepared(nn.Linear(1, 1), (torch.ones(2, 1),))

    def work(name: str, stages: Sequence[str], report: Callable[[Report], None]) -> None:
        subject = module.Subject(every[name], order.calibration_sets)
        for stage in stages:
            report(_record(stage, module.STAGES[stage], subject))

    for record in run(order, work):
        replies.write(json.dumps(record) + "\n")


def _warm(names: Sequence[str]) -> None:
    """Import what stages would import, and have torch import its exporter."""
    declare()
    for name in (*names, "transformers", "timm"):
        importlib.import_module(name)
    torch.export.export(nn.Linear(1, 1), (torch.ones(1, 1),))


def _record(stage: str, call: Any, subject: Any) -> Report:
    made = StageRun()
    cpu, wall = time.process_time(), time.perf_counter()
    status, error = "ok", None
    try:
        call(subject, made)
    except Skipped as reason:
        status, error = "skipped", str(reason)
    except Fault as fault:
        status, error = "failed", str(fault)
    except BaseException as raised:
        traceback.print_exc()
        status, error = "failed", _one_line(raised)
    return {
        "stage": stage,
        "status": status,
        "error": error,
        "figures": made.figures,
        "cpu": round(time.process_time() - cpu, 3),
        "seconds": round(time.perf_counter() - wall, 3),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _one_line(error: BaseException) -> str:
    """Return the type and message of an error, and where a foreign one was raised."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    ours = any(each.__name__ == "GraphpressError" for each in type(error).__mro__)
    at = f" [{frames[-1].filename.rsplit('/', 3)[-2]}/{frames[-1].filename.rsplit('/')[-1]}:{frames[-1].lineno}]"
    return f"{type(error).__name__}: {text[:600]}{'' if ours or not frames else at}"


if __name__ == "__main__":
    main()
