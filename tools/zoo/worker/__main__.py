"""Run stages of one architecture: `python -m graphpress.tools.zoo.worker SIDE MODEL MEGABYTES STAGE...`.

Two JSON objects are written per stage to stdout, one a line: `{"start": stage}`, then the record. What is printed by
the packages goes to stderr.
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
from typing import Any

import torch

from graphpress.tools.zoo import models
from graphpress.tools.zoo.worker.stage import Fault, Skipped, StageRun


def main() -> None:
    """Run the stages that the arguments name, in order."""
    side, name, megabytes, *stages = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    limit = int(megabytes) << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    module = importlib.import_module(f"graphpress.tools.zoo.worker.{side}")
    subject = module.Subject(models.every()[name])
    for stage in stages:
        replies.write(json.dumps({"start": stage}) + "\n")
        replies.write(json.dumps(_run(stage, module.STAGES[stage], subject)) + "\n")


def _run(stage: str, call: Any, subject: Any) -> dict[str, Any]:
    run = StageRun()
    cpu, wall = time.process_time(), time.perf_counter()
    status, error = "ok", None
    try:
        call(subject, run)
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
        "figures": run.figures,
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
