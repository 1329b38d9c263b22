"""Test the tests: ``python -m graphpress.tools.maintenance.mutation``, or ``make mutation``.

Changes a module in one place, runs the tests that concern it, and expects one to fail. ``mutation.toml`` beside this
file says which tests concern which module, and which survivors no test can tell from the module itself. Cosmic Ray
finds the places; since importing torch takes longer than most tests, mutants run in forks of a process that has
imported it, and no file of the repository is touched.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import click
import hypothesis
import pytest
import torch  # before the forks
from attrs import asdict, frozen

from graphpress.tools.maintenance.mutants import Mutant, digest_of, sample

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = Path(__file__).with_name("mutation.toml")
PYTEST = ("-x", "-q", "-m", "not slow and not matrix", "-p", "no:cacheprovider", "--hypothesis-profile=no-shrinking")
SECONDS_OF_TESTS = 20.0  # a mutant may take three times as long as no mutant, and this


class Outcome(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


@frozen
class Equivalent:
    """A change that no test has to notice, by the lines it removes and adds, and why not."""

    path: str
    removed: str
    added: str
    reason: str


@frozen
class Configuration:
    """The modules, each with the tests that concern it (the quickest first), and known equivalents."""

    tests: dict[str, tuple[str, ...]]
    equivalents: tuple[Equivalent, ...]

    @classmethod
    def load(cls, path: Path = CONFIGURATION) -> Configuration:
        """Read ``mutation.toml``."""
        read = tomllib.loads(path.read_text(encoding="utf-8"))
        tests = {name: tuple(files) for name, files in read["tests"].items()}
        return cls(tests, tuple(Equivalent(**entry) for entry in read.get("equivalent", ())))


@frozen
class Result:
    """One mutant, what it changes, and what became of it. `reason` says why a survivor is equivalent."""

    mutant: Mutant
    removed: str
    added: str
    outcome: Outcome
    seconds: float
    reason: str = ""

    def to_json(self) -> str:
        """One line, without the reason, which is the configuration's to say."""
        kept = {"removed": self.removed, "added": self.added, "outcome": self.outcome.value, "seconds": self.seconds}
        return json.dumps(asdict(self.mutant) | kept)

    @classmethod
    def from_json(cls, line: str) -> Result:
        """Read a line of `to_json`."""
        read: dict[str, Any] = json.loads(line)
        mutant = Mutant(**{name: read.pop(name) for name in ("path", "operator", "occurrence", "line", "digest")})
        return cls(mutant, outcome=Outcome(read.pop("outcome")), **read)


class _Loader(SourceFileLoader):
    """Loads a module from other text than its file's."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        """The code of the text."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


@frozen
class _Finder(importlib.abc.MetaPathFinder):
    name: str
    path: str
    source: str

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of the mutated module; None for any other."""
        if fullname != self.name:
            return None
        loader = _Loader(fullname, self.path, self.source)
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader)


def run_tests(
    path: str, source: str, tests: Sequence[str], limit: float, then: Callable[[], None] | None = None
) -> int:
    """Run `tests` with `source` in the place of the module `path`, in a fork; the exit code of pytest.

    Args:
        path: the module, from the root of the repository.
        source: its text.
        tests: files or ids of tests.
        limit: seconds of processor time after which the fork is killed.
        then: called in the fork after the tests.

    Returns:
        0 when all tests pass, 1 or 2 when one fails or cannot be imported, the negative number of a signal.
    """
    child = os.fork()
    if child == 0:
        code = 3
        try:
            os.setsid()
            _limit(limit)
            _silence()
            for name in [name for name in sys.modules if name.partition(".")[0] == "graphpress"]:
                del sys.modules[name]
            sys.meta_path.insert(0, _Finder(_module_name(path), str(ROOT / path), source))
            code = int(pytest.main([*PYTEST, *tests]))
            if then is not None:
                then()
        finally:
            os._exit(code)
    return _wait(child, 10 * limit)


def _wait(child: int, limit: float) -> int:
    """The exit code of the process; killed with all it started after `limit` seconds."""
    ends = time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends:
            os.killpg(child, signal.SIGKILL)
            ends = float("inf")
        time.sleep(0.02)


def _limit(seconds: float) -> None:
    hard = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _module_name(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    inside = parts[2:] if parts[0] == "src" else parts
    return ".".join(("graphpress", *(part for part in inside if part != "__init__")))


def _baseline(path: str, tests: Sequence[str]) -> float:
    """Seconds that the tests of a module take without a mutant. What they import is imported here then, too.

    Raises:
        click.ClickException: when they fail.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as report:

        def tell() -> None:
            loaded = [name for name in sys.modules if name.partition(".")[0] not in ("graphpress", "tests", "__main__")]
            Path(report.name).write_text("\n".join(loaded), encoding="utf-8")

        source = (ROOT / path).read_text(encoding="utf-8")
        started = time.monotonic()
        code = run_tests(path, source, tests, 1200, tell)
        seconds = time.monotonic() - started
        if code:
            raise click.ClickException(f"the tests of {path} fail without a mutant: pytest {' '.join(tests)}")
        names = [name for name in report.read().splitlines() if name not in sys.modules]
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # what only a test can import
            continue
    return seconds


def examine(path: str, tests: Sequence[str], mutants: Iterable[Mutant], record: Callable[[Result], None]) -> None:
    """Run every mutant of a module; `record` is called with each result as it is known."""
    mutants = list(mutants)
    if not mutants:
        return
    seconds = _baseline(path, tests)
    click.echo(f"{path}: {len(mutants)} mutants, {seconds:.1f} s each without a mutant")
    source = (ROOT / path).read_text(encoding="utf-8")
    for mutant in mutants:
        started = time.monotonic()
        code = run_tests(path, mutant.apply(source), tests, 3 * seconds + SECONDS_OF_TESTS)
        outcome = Outcome.SURVIVED if code == 0 else Outcome.KILLED if code > 0 else Outcome.TIMED_OUT
        record(Result(mutant, *mutant.change(source), outcome, round(time.monotonic() - started, 2)))


def classified(results: Iterable[Result], equivalents: Iterable[Equivalent]) -> list[Result]:
    """The results, survivors that are known equivalents with the reason."""
    reasons = {(each.path, each.removed, each.added): each.reason for each in equivalents}
    return [
        Result(r.mutant, r.removed, r.added, r.outcome, r.seconds, reasons.get((r.mutant.path, r.removed, r.added), ""))
        for r in results
    ]


def current(results: Iterable[Result], paths: Iterable[str]) -> list[Result]:
    """The results about the text that the modules at `paths` have now."""
    digests = {path: digest_of((ROOT / path).read_text(encoding="utf-8")) for path in paths}
    return [result for result in results if digests.get(result.mutant.path) == result.mutant.digest]


def table(results: Iterable[Result]) -> str:
    """The counts of every module, as Markdown. Equivalents count neither as killed nor as survived."""
    by_path: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        survived = result.outcome is Outcome.SURVIVED
        outcome = "equivalent" if survived and result.reason else "survived" if survived else "killed"
        for row in (result.mutant.path, "all"):
            by_path[row][outcome] += 1
    total = by_path.pop("all", Counter())
    lines = [
        "| module | mutants | killed | equivalent | survived | killed of the others |",
        "|---|---|---|---|---|---|",
    ]
    for path, counts in (*sorted(by_path.items()), ("all", total)):
        others = counts["killed"] + counts["survived"]
        share = f"{counts['killed'] / others:.0%}" if others else "-"
        cells = (f"`{path}`", counts.total(), counts["killed"], counts["equivalent"], counts["survived"], share)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


@click.command()
@click.argument("modules", nargs=-1)
@click.option("--sample", "count", default=15, show_default=True, help="How many mutants of each module.")
@click.option("--whole", is_flag=True, help="One mutant for every place that can change: days, not hours.")
@click.option("--seed", default=0, show_default=True, help="Which mutants.")
@click.option(
    "--results", default="build/mutation.jsonl", show_default=True, type=Path, help="Kept; done ones are skipped."
)
@click.option("--survivors", is_flag=True, help="Run those again that survived before, and no others.")
@click.option("--report", is_flag=True, help="Run nothing; print the figures.")
def main(
    modules: tuple[str, ...], count: int, whole: bool, seed: int, results: Path, survivors: bool, report: bool
) -> None:
    """Change MODULES (all of mutation.toml, unless given) in one place after the other, and run their tests."""
    configuration = Configuration.load()
    unknown = [path for path in modules if path not in configuration.tests]
    if unknown:
        raise click.ClickException(f"{unknown[0]} is not in {CONFIGURATION.name}")
    known: dict[Mutant, Result] = {}
    if results.exists():
        lines = results.read_text(encoding="utf-8").splitlines()
        known = {result.mutant: result for result in map(Result.from_json, lines)}
    if not report:
        results.parent.mkdir(parents=True, exist_ok=True)
        hypothesis.settings.register_profile(
            "no-shrinking",
            derandomize=True,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        os.chdir(ROOT)
        torch.set_num_threads(1)
        for path in modules or configuration.tests:
            chosen = sample(ROOT, path, None if whole else count, seed)
            if survivors:
                waiting = [m for m in chosen if m in known and known[m].outcome is Outcome.SURVIVED]
            else:
                waiting = [m for m in chosen if m not in known]
            with results.open("a", encoding="utf-8") as file:

                def record(result: Result, file: Any = file) -> None:
                    known[result.mutant] = result
                    print(result.to_json(), file=file, flush=True)

                examine(path, configuration.tests[path], waiting, record)
    shown = classified(current(known.values(), modules or configuration.tests), configuration.equivalents)
    for result in shown:
        if result.outcome is Outcome.SURVIVED and not result.reason:
            click.echo(f"\n{result.mutant.path}:{result.mutant.line} {result.mutant.operator}")
            click.echo(f"  - {result.removed}\n  + {result.added}")
    click.echo("\n" + table(shown))


if __name__ == "__main__":
    main()
