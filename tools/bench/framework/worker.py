"""Serve the workloads of one framework: `python -m graphpress.tools.bench.framework.worker SIDE`.

A task has a `workload` and its `nodes`; a reply has the CPU `seconds` of one call, `None` where the framework has no
counterpart, or `error`. A call that takes more CPU seconds than the task's `limit` ends the process by SIGPROF, in
whatever code it is.
"""

import gc
import importlib
import importlib.metadata
import json
import os
import signal
import sys
import traceback
from time import thread_time
from typing import Any


def main() -> None:
    """Serve tasks until stdin ends."""
    side = importlib.import_module(f"graphpress.tools.bench.framework.{sys.argv[1]}")
    # Output of a framework must not mix with the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        try:
            reply = versions_of(side) if "versions" in task else timed(side, **task)
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")


def versions_of(side: Any) -> dict[str, Any]:
    """Return the installed versions of the packages of a side."""
    return {"versions": {name: importlib.metadata.version(name) for name in side.PACKAGES}}


def timed(side: Any, workload: str, nodes: int, limit: float) -> dict[str, Any]:
    """Time one call; what it needs is built before, and the first use of everything is not timed.

    The clock is that of the thread, in which all sides work: while a timer of CPU time runs, Linux counts that of the
    process in ticks of milliseconds.
    """
    warm = side.prepare(workload, 60)
    if warm is None:
        return {"seconds": None}
    warm()
    call = side.prepare(workload, nodes)
    gc.collect()
    signal.setitimer(signal.ITIMER_PROF, limit)
    start = thread_time()
    call()
    seconds = thread_time() - start
    signal.setitimer(signal.ITIMER_PROF, 0)
    return {"seconds": seconds}


if __name__ == "__main__":
    main()
