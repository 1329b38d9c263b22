"""Checks of graphs by a command, and the failure tests of reproducers."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field

from graphpress.ir.graph import Graph
from graphpress.ir.text.storage import save_graph
from graphpress.passes.framework import Runner
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.debugging.reproduction import Case, Failure
from graphpress.tools.passctl import console
from graphpress.tools.passctl.console import PassctlError

NUMERICS = "numerics"
"""The name of the built-in check."""

_GOOD, _BAD = 0, 1
_SHOWN_LINES = 10


@define(eq=False)
class CommandCheck:
    """Saves a graph, runs a command with the path of the ``.gir`` as its last argument, and evaluates the exit code.

    Attributes:
        command: the command line, split as by a shell; no shell runs it.
        folder: the folder for the graphs.
        count: the number of graphs checked.
    """

    command: str
    folder: Path
    count: int = field(default=0, init=False)

    def __call__(self, graph: Graph) -> bool:
        """Return whether `graph` is good.

        Raises:
            PassctlError: if the command cannot be run, or has another exit code.
        """
        self.count += 1
        path = self.folder / f"graph-{self.count}.gir"
        save_graph(graph, path)
        words = _words(self.command)
        try:
            done = subprocess.run([*words, str(path)], capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise PassctlError(f"the check {self.command!r} cannot be run: {error.strerror or error}") from error
        finally:
            path.unlink(missing_ok=True)
            path.with_suffix(".safetensors").unlink(missing_ok=True)
        if done.returncode not in (_GOOD, _BAD):
            said = "".join(f"\n  {line}" for line in (done.stderr or done.stdout).splitlines()[-_SHOWN_LINES:])
            raise PassctlError(
                f"the check {self.command!r} exited with {done.returncode}; accepted: {_GOOD} for a good graph, "
                f"{_BAD} for a bad one{said}"
            )
        console.report(f"check {self.count}: {len(graph.nodes)} nodes, {'good' if done.returncode == _GOOD else 'bad'}")
        return done.returncode == _GOOD


@contextmanager
def command_check(command: str) -> Iterator[CommandCheck]:
    """Create a check by `command`, with a temporary folder for its graphs."""
    with TemporaryDirectory(prefix="passctl-") as folder:
        yield CommandCheck(command, Path(folder))


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise PassctlError(f"the check {command!r} is not a valid command: {error}") from error
    if not words:
        raise PassctlError("the check is an empty command")
    return words


Fails = Callable[[Case], Failure | None]


@contextmanager
def failing(bundle: Bundle, command: str | None) -> Iterator[Fails]:
    """Return a test for whether and how a case fails.

    Raises:
        PassctlError: if only a command shows the failure, and none is passed.
    """
    if command is not None:
        with command_check(command) as check:
            yield lambda case: _checked(case, check)
        return
    if bundle.failure.is_check:
        raise PassctlError(
            f"the reproducer fails by a command alone ({bundle.failure.message}); it is run only if you pass it "
            "with --check"
        )
    yield lambda case: case.attempt()


def _checked(case: Case, check: CommandCheck) -> Failure | None:
    failure = case.attempt()
    if failure is not None:
        return failure
    result = Runner().run(case.graph, case.pipeline)
    last = list(case.pipeline)[-1] if len(case.pipeline) else None
    return None if check(result.graph) else Failure.of_check(check.command, last)
