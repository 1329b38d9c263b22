"""The fuzzer: ``python -m tests.fuzzing``."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzzing.campaign import Find, files_of, make_seeds, run_campaign, write_files
from tests.fuzzing.formats import FORMATS, Format
from tests.fuzzing.guard import run_case
from tests.fuzzing.known import known

FINDS = Path("build/fuzz")


def main(arguments: list[str] | None = None) -> int:
    """Run the fixed cases of each format, or new ones for some minutes; return 1 if any is not known."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--format", nargs="*", choices=FORMATS, default=list(FORMATS), metavar="NAME", dest="formats")
    parser.add_argument("--minutes", type=float, help="for new cases; without it, the fixed ones run for a minute")
    parser.add_argument("--seed", type=int, help="run this one case, and show what it says")
    given = parser.parse_args(arguments)
    formats = [FORMATS[name] for name in given.formats]
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        for format in formats:
            for library in format.libraries:
                importlib.import_module(library)
            make_seeds(format, seeds / format.name)
        if given.seed is not None:
            return _show(formats[0], seeds / formats[0].name, given.seed, Path(folder) / "case")
        return _run(formats, seeds, given.minutes)


def _run(formats: list[Format], seeds: Path, minutes: float | None) -> int:
    first = 0 if minutes is None else time.time_ns() // 1000
    end = time.monotonic() + 60 * (1 if minutes is None else minutes)
    unknown: list[Find] = []
    for place, format in enumerate(formats):
        # What a format leaves of its time goes to the next ones.
        share = (end - time.monotonic()) / (len(formats) - place)
        cases = format.cases if minutes is None else None
        report = run_campaign(format, seeds / format.name, first, cases, time.monotonic() + share)
        new = [find for find in report.finds if known(find) is None]
        counts = f"{report.read} read, {report.refused} refused, {len(report.finds) - len(new)} known, {len(new)} new"
        print(f"{format.name}: {counts}", flush=True)
        unknown += new
    _print_finds(unknown, seeds)
    return 1 if unknown else 0


def _print_finds(finds: list[Find], seeds: Path) -> None:
    kinds = Counter((find.format, find.failure.partition(": ")[0]) for find in finds)
    for (format, kind), count in kinds.items():
        find = next(find for find in finds if (find.format, find.failure.partition(": ")[0]) == (format, kind))
        print(f"\n{format} {find.seed} ({count} of this kind): {find.failure}\n{find.trace}")
        print(f"  python -m tests.fuzzing --format {format} --seed {find.seed}")
        place = FINDS / f"{format}-{find.seed}"
        shutil.rmtree(place, ignore_errors=True)
        write_files(place, files_of(seeds / format, format, find.seed))


def _show(format: Format, seeds: Path, seed: int, folder: Path) -> int:
    files = files_of(seeds, format.name, seed)
    write_files(folder, files)
    place = FINDS / f"{format.name}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    write_files(place, files)
    print(f"{place}: {', '.join(files)}", flush=True)
    outcome = run_case(format.check, folder, sum(map(len, files.values())))
    print(outcome.trace or outcome.failure or outcome.refusal or "read")
    return 1 if outcome.failure else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
