"""`python -m graphpress.tools.zoo run|quick|list|table|failures`."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from graphpress.tools.zoo import models, quick, table
from graphpress.tools.zoo.running import ROOT, Results, Runner, missing
from graphpress.tools.zoo.worker.forking import Order

STAGES = {
    "ours": [
        *("export", "capture", "text", "w8a8", "batch", "coreai:w8a8", "coreml:w8a8", "w8", "w4", "p4", "joint"),
        *("coreai:w8", "coreai:w4", "coreai:p4", "coreai:joint", "coreml:w4", "coreml:joint"),
        *("dynamic", "states", "coreai:alone", "coreml:alone"),
    ],
    "peer": ["peer", "peer:coreai"],
}


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m graphpress.tools.zoo")
    parser.add_argument("command", choices=["run", "quick", "list", "table", "failures"])
    parser.add_argument("models", nargs="*", help="names of architectures; all of them by default")
    parser.add_argument("--results", type=Path, help="build/zoo.jsonl, or build/zoo-quick.jsonl of `quick`")
    parser.add_argument("--rerun", choices=["missing", "changed", "failed"], default="missing")
    parser.add_argument("--stages", nargs="*", help="stages of our side; all of them by default")
    parser.add_argument("--sides", nargs="*", default=["ours", "peer"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--calibration-sets", type=int, default=6, help="sets of batches that decibels are pooled over")
    arguments = parser.parse_args()
    every = models.every()
    if arguments.command == "list":
        for model in every.values():
            print(f"{model.family:14} {model.name}")
        return
    name = "zoo-quick.jsonl" if arguments.command == "quick" else "zoo.jsonl"
    results, version = Results(arguments.results or ROOT / "build" / name), digest()
    runner = Runner(results, version)
    known = results.read()
    if arguments.command == "table":
        (ROOT / "docs/zoo.md").write_text(table.page(every, table.by_model(known)))
        return
    if arguments.command == "failures":
        print(table.failure_report(table.by_model(known)))
        return
    if arguments.command == "quick":
        quick.check(runner)
        return

    for side in arguments.sides:
        stages = (arguments.stages or STAGES["ours"]) if side == "ours" else STAGES["peer"]
        names = arguments.models or every
        tasks = {name: missing(known, name, stages, version, arguments.rerun) for name in names}
        for record in runner.run(Order(side, tasks, arguments.workers, arguments.calibration_sets)):
            if record["status"] == "failed":
                print(f"{record['model']} {record['stage']}: {record['error'][:160]}", flush=True)


def digest() -> str:
    """Return a digest of the package's sources, without those of the tools."""
    total = hashlib.sha256()
    for folder in ("ir", "passes", "backends", "src/graphpress"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"tools", "__pycache__"} & set(path.parts[len(ROOT.parts) :]):
                total.update(path.read_bytes())
    return total.hexdigest()[:12]


if __name__ == "__main__":
    main()
