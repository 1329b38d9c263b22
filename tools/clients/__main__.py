"""Run other people's programs for coreai-opt on both packages, and write the table of `docs/clients.md`.

``python -m graphpress.tools.clients --coreai-models CHECKOUT``. The checkout stays outside the repository; without it
(the option, or the variable COREAI_MODELS) nothing is run, and the reason is printed. A client that fails on our side
alone is an error.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphpress.tools.bench.sides import Side, Worker, importing_tools_only
from graphpress.tools.clients.report import Run, table
from graphpress.tools.clients.worker.checkpoints import MODELS
from graphpress.tools.zoo.running import SIDES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "clients.md"
_MARKS = ("<!-- clients: begin -->", "<!-- clients: end -->")
_WORKER = "graphpress.tools.clients.worker"
_IOS = ("qwen2", "qwen3", "mistral")


def main() -> None:
    """Run the clients that can be run, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--coreai-models", default=os.environ.get("COREAI_MODELS"), help="a checkout of coreai-models")
    parser.add_argument("--only", nargs="*", help="parts of names of runs; the page is not written")
    for side, python in SIDES.items():
        parser.add_argument(f"--{side}-python", type=Path, default=python, help=f"the interpreter of the {side} side")
    arguments = parser.parse_args()
    missing = [str(each) for each in (arguments.ours_python, arguments.peer_python) if not each.exists()]
    if not arguments.coreai_models or missing:
        reason = f"no environment at {missing[0]}" if missing else "no checkout of coreai-models: set COREAI_MODELS"
        print(f"skipped: {reason}")
        return
    runs = _selected(tasks(arguments.coreai_models), arguments.only)
    with tempfile.TemporaryDirectory(prefix="clients-") as cache, importing_tools_only() as tools:
        os.environ |= {"HF_HOME": cache, "HF_HUB_OFFLINE": "1"}
        ours = Side("ours", "graphpress", str(arguments.ours_python), str(ROOT / "src"), _WORKER)
        peer = Side("peer", "coreai_opt", str(arguments.peer_python), tools, _WORKER)
        with Worker(ours) as worker:
            worker.run({"do": "checkpoints", "cache": cache})
        found = []
        for name, task in runs.items():
            found.append(Run(name, *_on(task, (ours, peer))))
            print(found[-1], flush=True)
    if not arguments.only:
        begin, end = _MARKS
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(begin)[0], page.split(end)[1]
        PAGE.write_text(f"{before}{begin}\n{table(found)}\n{end}{after}", encoding="utf-8")
    sys.exit(1 if any(run.is_our_fault for run in found) else 0)


def tasks(checkout: str) -> dict[str, dict[str, Any]]:
    """Return the task of each run, by its name in the table."""
    export = {"do": "export", "checkout": checkout}
    found: dict[str, dict[str, Any]] = {
        f"macOS `4bit`, {model}": {**export, "model": model, "variant": "macOS", "preset": "4bit"} for model in MODELS
    }
    preset = "4bit_weight_palettized_group8"
    for model in _IOS:
        found[f"iOS `{preset}`, {model}"] = {**export, "model": model, "variant": "iOS", "preset": preset}
    found["exploration, 45 configurations"] = {"do": "explore", "checkout": checkout}
    return found


def _selected(every: dict[str, dict[str, Any]], only: list[str] | None) -> dict[str, dict[str, Any]]:
    return {name: task for name, task in every.items() if not only or any(part in name for part in only)}


def _on(task: dict[str, Any], sides: tuple[Side, Side]) -> Iterator[dict[str, Any]]:
    """Yield the reply of each side, from a process of its own."""
    for side in sides:
        with Worker(side) as worker:
            yield worker.run(dict(task))


if __name__ == "__main__":
    main()
