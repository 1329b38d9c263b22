"""`python -m graphpress.tools.zoo run|quick|list|table|failures`."""

from __future__ import annotations

import argparse
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from graphpress.tools.zoo import models, quick, table
from graphpress.tools.zoo.running import ROOT, Results, Runner, missing

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
    parser.add_argument("--results", type=Path, default=ROOT / "build/zoo.jsonl")
    parser.add_argument("--rerun", choices=["missing", "changed", "failed"], default="missing")
    parser.add_argument("--stages", nargs="*", help="stages of our side; all of them by default")
    parser.add_argument("--sides", nargs="*", default=["ours", "peer"])
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    every = models.every()
    if arguments.command == "list":
        for model in every.values():
            print(f"{model.family:14} {model.name}")
        return
    results, version = Results(arguments.results), digest()
    known = results.read()
    if arguments.command == "table":
        (ROOT / "docs/zoo.md").write_text(table.page(every, table.by_model(known)))
        return
    if arguments.command == "failures":
        print(table.failure_report(table.by_model(known)))
        return
    if arguments.command == "quick":
        quick.check(results, version)
        return

    def run(name: str) -> None:
        for side in arguments.sides:
            stages = (arguments.stages or STAGES["ours"]) if side == "ours" else STAGES["peer"]
            for record in Runner(side, results, version).run(
                name, missing(known, name, stages, version, arguments.rerun)
            ):
                if record["status"] == "failed":
                    print(f"{name} {record['stage']}: {record['error'][:160]}", flush=True)

    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(run, arguments.models or every))


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
