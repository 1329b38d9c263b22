"""The steps of compiled patterns that look at one value or attribute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from graphpress.ir.graph import Value
from graphpress.passes.framework import patterns as p
from graphpress.passes.framework.attempt import Attempt
from graphpress.passes.framework.match import Path, constant_complaint, is_python_value, type_complaint

Step: TypeAlias = Callable[[Any, Path, Attempt], bool]
"""Matches a part of a pattern with its subject, which is at this path."""


def passes(tests: tuple[p.Test, ...], subject: Any) -> bool:
    """True if a subject passes the tests of a pattern."""
    return not tests or all(test.predicate(subject) for test in tests)


def any_step(pattern: p.Any) -> Step:
    """Return the step of a value of any kind."""
    name, tests = pattern.name, pattern.tests
    is_free = not pattern.dtype and pattern.rank is None and pattern.shape is None
    constant = pattern if isinstance(pattern, p.Constant) else None
    if is_free and constant is None and not tests:
        return _value_step(name)

    def step(subject: Any, path: Path, attempt: Attempt) -> bool:
        if not isinstance(subject, Value):
            return False
        if constant is not None:
            if constant_complaint(constant, subject) is not None:
                return False
            if constant.unshared:
                attempt.owned += (subject,)
        if not is_free and type_complaint(pattern, subject.type) is not None:
            return False
        return (name is None or attempt.capture(name, subject, path)) and passes(tests, subject)

    return step


def _value_step(name: str | None) -> Step:
    """The step of `Any` without conditions, the most frequent one: `Attempt.capture` is written out."""
    if name is None:
        return lambda subject, path, attempt: isinstance(subject, Value)

    def step(subject: Any, path: Path, attempt: Attempt) -> bool:
        if not isinstance(subject, Value):
            return False
        captures = attempt.captures
        if name in captures:
            return captures[name] is subject
        captures[name], attempt.paths[name] = subject, path
        return True

    return step


def attribute_step(pattern: p.Attr) -> Step:
    """Return the step of a Python value."""
    name, tests = pattern.name, pattern.tests

    def step(subject: Any, path: Path, attempt: Attempt) -> bool:
        if not is_python_value(subject):
            return False
        return (name is None or attempt.capture(name, subject, path)) and passes(tests, subject)

    return step
