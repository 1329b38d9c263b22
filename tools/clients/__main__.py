"""Run other people's programs for coreai-opt on both packages, and write the table of `docs/clients.md`.

``python -m graphpress.tools.clients --coreai-models CHECKOUT``. The checkout stays outside the repository; what cannot
run without it (the option, or the variable COREAI_MODELS) or without an environment is skipped, and the reason is
printed. The results of runs are kept in `build/clients`, and the page shows the last of each; with ``--only`` few are
run again. A client that fails on our side alone is an error.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphpress.ir.files import write_file
from graphpress.tools.bench.sides import Side, Worker, importing_tools_only
from graphpress.tools.clients.report import Run, kept, table, versions, with_run
from graphpress.tools.clients.tasks import Task, tasks
from graphpress.tools.zoo.running import SIDES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "clients.md"
RESULTS = ROOT / "build" / "clients" / "runs.json"
EXECUTORCH = ROOT / ".venv-executorch" / "bin" / "python"
_MARKS = ("<!-- clients: begin -->", "<!-- clients: end -->")
_WORKER = "graphpress.tools.clients.worker"


def main() -> None:
    """Run the clients that can be run, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--coreai-models", default=os.environ.get("COREAI_MODELS"), help="a checkout of coreai-models")
    parser.add_argument("--only", nargs="*", help="parts of names of runs; the others are not run again")
    for side, python in {**SIDES, "executorch": EXECUTORCH}.items():
        parser.add_argument(f"--{side}-python", type=Path, default=python, help=f"the interpreter for {side}")
    arguments = parser.parse_args()
    every = tasks(arguments.coreai_models)
    chosen = [task for task in every if arguments.only is None or any(part in task.name for part in arguments.only)]
    is_wrong = False
    with _cache([task.model for task in chosen if task.model], arguments) as sides:
        for task in chosen:
            pair = sides[task.environment]
            reason = _missing(task, pair, arguments.coreai_models)
            if reason is not None:
                print(f"skipped: {task.name}: {reason}", flush=True)
                continue
            run = Run(task.name, *_on(task, pair))
            print(run, flush=True)
            is_wrong |= run.is_our_fault
            write_file(_made(RESULTS), with_run(kept(RESULTS), run))
    begin, end = _MARKS
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(begin)[0], page.split(end)[1]
    runs = kept(RESULTS)
    rows = table(runs, [task.name for task in every])
    write_file(PAGE, f"{before}{begin}\nWith {versions(runs.values())}:\n\n{rows}\n{end}{after}")
    sys.exit(1 if is_wrong else 0)


Pair = tuple[Side, Side]


@contextmanager
def _cache(models: list[str], arguments: argparse.Namespace) -> Iterator[dict[str, Pair]]:
    """Yield the sides of each environment, with the checkpoints of `models` in the cache of the hub."""
    with tempfile.TemporaryDirectory(prefix="clients-") as cache, importing_tools_only() as tools:
        os.environ |= {"HF_HOME": cache, "HF_HUB_OFFLINE": "1"}
        ours = Side("ours", "graphpress", str(arguments.ours_python), str(ROOT / "src"), _WORKER)
        peer = Side("peer", "coreai_opt", str(arguments.peer_python), tools, _WORKER)
        python = str(arguments.executorch_python)
        lowering = (
            Side("ours", "graphpress", python, str(ROOT / "src"), _WORKER),
            Side("peer", "coreai_opt", python, tools, _WORKER),
        )
        if models and arguments.coreai_models and arguments.ours_python.exists():
            with Worker(ours) as worker:
                worker.run({"do": "checkpoints", "cache": cache, "models": models})
        yield {"zoo": (ours, peer), "executorch": lowering}


def _missing(task: Task, sides: Pair, checkout: str | None) -> str | None:
    absent = next((side.python for side in sides if not Path(side.python).exists()), None)
    if absent is not None:
        return f"no environment at {absent}"
    return "no checkout of coreai-models: set COREAI_MODELS" if task.needs_checkout and not checkout else None


def _on(task: Task, sides: Pair) -> Iterator[dict[str, object]]:
    """Yield the reply of each side, from a process of its own."""
    for side in sides:
        with Worker(side) as worker:
            yield worker.run(dict(task.order))


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    main()
