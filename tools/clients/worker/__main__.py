"""Serve tasks: ``python -m graphpress.tools.clients.worker PACKAGE``, one JSON object a line in and out."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch

from graphpress.tools.clients.worker import checkpoints, exploration, exporting
from graphpress.tools.zoo.torchvision_schemas import declare

TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "checkpoints": checkpoints.write,
    "export": exporting.export,
    "explore": exploration.explore,
}


def main() -> None:
    """Serve tasks until stdin ends; `coreai_opt` is graphpress on our side."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    declare()
    if sys.argv[1] == "graphpress":
        importlib.import_module("graphpress").install_as_coreai_opt()
    for line in sys.stdin:
        task = json.loads(line)
        try:
            reply = TASKS[task.pop("do")](**task)
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
