"""Serve tasks to the benchmark harness: `python -m graphpress.tools.bench.worker PACKAGE`.

Tasks are read from stdin and replies written to stdout, as one JSON object per line. A task has a `do` (see `TASKS`)
and its arguments; a reply has `seconds` (name to cpu and wall), `facts` and `weights`, or `error`.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from graphpress.tools.bench.worker.clock import ExportClock, Outcome
from graphpress.tools.bench.worker.tasks import (
    export_model,
    import_package,
    palettize_model,
    quantize_model,
    train_model,
    upscale_with_edsr,
)
from graphpress.tools.bench.worker.trained import compressed_outputs

TASKS: dict[str, Callable[[str, dict[str, Any], ExportClock], Outcome]] = {
    "import": import_package,
    "export": export_model,
    "quantize": quantize_model,
    "train": train_model,
    "palettize": palettize_model,
    "edsr": upscale_with_edsr,
    "trained": compressed_outputs,
}


def main() -> None:
    """Serve tasks until stdin ends."""
    package = sys.argv[1]
    # Output of the measured package must not mix with the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    exports = ExportClock()
    for line in sys.stdin:
        replies.write(json.dumps(_run(package, json.loads(line), exports)) + "\n")


def _run(package: str, task: dict[str, Any], exports: ExportClock) -> dict[str, Any]:
    try:
        outcome = TASKS[task["do"]](package, task, exports)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return {"seconds": outcome.seconds, "facts": outcome.facts, "weights": outcome.weights}


if __name__ == "__main__":
    main()
