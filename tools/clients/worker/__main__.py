"""Serve tasks: ``python -m graphpress.tools.clients.worker PACKAGE``, one JSON object a line in and out."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from typing import Any

import torch

from graphpress.tools.clients.worker import checkpoints, exploration, exporting, lowering
from graphpress.tools.zoo.torchvision_schemas import declare

PACKAGES = ("coreai-opt", "coreai-core", "coreai-torch", "executorch", "torch", "transformers")
TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "checkpoints": checkpoints.write,
    "export": exporting.export,
    "segment": exporting.segment,
    "lower": lowering.lower,
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
            reply = TASKS[task["do"]](**{name: value for name, value in task.items() if name != "do"})
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        replies.write(json.dumps({**reply, "versions": versions(task.get("checkout"))}) + "\n")


def versions(checkout: str | None) -> dict[str, str]:
    """Return the versions of the installed packages, and the commit of a checkout of coreai-models."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name).partition("+")[0]
    if checkout is not None:
        git = ["git", "-C", checkout, "rev-parse", "--short=10", "HEAD"]
        found["coreai-models"] = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return found


if __name__ == "__main__":
    main()
