"""How a reproducer is seen to fail: by itself, or because a command finds its result bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphpress.passes.framework import Runner
from graphpress.passes.framework.bundles import Bundle
from graphpress.passes.framework.reproduction import Case, Failure
from graphpress.tools.passctl.checks import CommandCheck, command_check
from graphpress.tools.passctl.errors import PassctlError

Fails = Callable[[Case], Failure | None]


@contextmanager
def failing(bundle: Bundle, command: str | None) -> Iterator[Fails]:
    """What tells how a case fails, if it does.

    Raises:
        PassctlError: when only a command shows the failure, and none is given.
    """
    if command is not None:
        with command_check(command) as check:
            yield lambda case: _checked(case, check)
        return
    if bundle.failure.is_check:
        raise PassctlError(
            f"the reproducer fails by a command alone ({bundle.failure.message}); it is not run unless you give it "
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
