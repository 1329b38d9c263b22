"""The text form of pipelines: ``fold-batch-norm, repeat{max=8}(dedup-fake-quant, dce), palettize{n_bits=4}``.

Grammar::

    pipeline := [step ("," step)*]
    step     := name ["{" [option ("," option)*] "}"] ["(" pipeline ")"]     the parentheses for repeat only
    option   := name "=" value
    value    := number | JSON string | word | "[" values "]" | "{" value ":" value, ... "}"

White space is free between tokens. What is printed leaves out options that have their default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from graphpress.ir.errors import suggestion
from graphpress.ir.plain import PlainError, Word, field_types, from_plain
from graphpress.passes.framework.errors import PipelineError, PipelineSyntaxError, UnknownPassError
from graphpress.passes.framework.registry import lookup_pass
from graphpress.passes.framework.steps import Repeat, StepLike

_MOST_NESTED = 16  # repeats in repeats
_SPACE = re.compile(r"\s*")
_STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OPTION_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?|inf\b)")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')


def print_steps(steps: Iterable[StepLike]) -> str:
    """Return steps as text that `parse_steps` reads back."""
    return ",".join(_print_step(step) for step in steps)


def parse_steps(text: str) -> tuple[StepLike, ...]:
    """Parse the text form of steps.

    Raises:
        PipelineSyntaxError: at the offending character.
        PipelineError: if `text` is no text.
    """
    if not isinstance(text, str):
        raise PipelineError(f"the text form of a pipeline is a str, not a {type(text).__name__}")
    parser = _Parser(text)
    try:
        steps = parser.steps()
    except RecursionError:
        raise PipelineSyntaxError(text, parser.position, "nested too deeply") from None
    if parser.position < len(text):
        parser.fail("expected ',' or the end of the pipeline")
    return steps


def _print_step(step: StepLike) -> str:
    if isinstance(step, Repeat):
        return f"repeat{{max={step.max}}}({print_steps(step.steps)})"
    return str(step)


class _Parser:
    """A recursive descent parser; `position` is the next character after white space."""

    def __init__(self, text: str):
        self.text, self.position, self.depth = text, 0, 0
        self.skip_space()

    def steps(self) -> tuple[StepLike, ...]:
        steps: list[StepLike] = []
        if self.position < len(self.text) and self.text[self.position] != ")":
            steps.append(self.step())
            while self.take(","):
                steps.append(self.step())
        return tuple(steps)

    def step(self) -> StepLike:
        start = self.position
        name = self.match(_STEP_NAME, "expected the name of a pass")
        if name == "repeat":
            return self.repeat(start)
        try:
            cls = lookup_pass(name)
        except UnknownPassError as error:
            self.fail(str(error), start)
        try:
            known = field_types(cls)
        except PlainError as error:
            self.fail(f"{name}: {error}", start, error)
        values = self.options(f"pass {name!r}", known)
        if self.text.startswith("(", self.position):
            self.fail(f"{name!r} takes no steps; only repeat does")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            self.fail(f"{name}: {error}", start, error)

    def repeat(self, start: int) -> Repeat:
        values = self.options("repeat", {"max": int})
        if self.depth == _MOST_NESTED:
            self.fail(f"repeats are nested too deeply; accepted: {_MOST_NESTED} levels", start)
        self.expect("(")
        self.depth += 1
        steps = self.steps()
        self.depth -= 1
        self.expect(")")
        try:
            return Repeat(*steps, **values)
        except (TypeError, ValueError) as error:
            self.fail(str(error), start, error)

    def options(self, owner: str, known: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if not self.take("{"):
            return values
        while not self.take("}"):
            if values:
                self.expect(",")
            start = self.position
            name = self.match(_OPTION_NAME, "expected the name of an option")
            if name not in known:
                accepted = f"; it takes {', '.join(known)}" if known else "; it takes none"
                self.fail(f"{owner} has no option {name!r}{suggestion(name, known) or accepted}", start)
            if name in values:
                self.fail(f"option {name!r} is given twice", start)
            self.expect("=")
            value_start = self.position
            read = self.value()
            try:
                values[name] = from_plain(read, known[name])
            except PlainError as error:
                self.fail(f"option {name!r}: {error}", value_start, error)
        return values

    def value(self) -> Any:
        if self.take("["):
            return self.items()
        if self.take("{"):
            return self.mapping()
        if found := _STRING.match(self.text, self.position):
            try:
                value = json.loads(found.group())
            except ValueError as error:
                self.fail(f"not a JSON string: {error}")
            self.advance(found.end())
            return value
        if found := _NUMBER.match(self.text, self.position):
            return self.number(found)
        if self.text.startswith('"', self.position):
            self.fail("this string does not end")
        return Word(self.match(_OPTION_NAME, "expected a value"))

    def number(self, found: re.Match[str]) -> int | float:
        text = found.group()
        try:
            value = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        except ValueError:
            self.fail(f"a number of {len(text)} digits")
        self.advance(found.end())
        return value

    def items(self) -> list[Any]:
        items: list[Any] = []
        while not self.take("]"):
            if items:
                self.expect(",")
            items.append(self.value())
        return items

    def mapping(self) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        while not self.take("}"):
            if mapping:
                self.expect(",")
            start = self.position
            key = self.value()
            if isinstance(key, list | dict):
                self.fail("a key must be a string, a number or a word", start)
            self.expect(":")
            mapping[key] = self.value()
        return mapping

    def take(self, token: str) -> bool:
        """Consume `token` if it is next."""
        if not self.text.startswith(token, self.position):
            return False
        self.advance(self.position + len(token))
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            self.fail(f"expected {token!r}")

    def match(self, pattern: re.Pattern[str], complaint: str) -> str:
        found = pattern.match(self.text, self.position)
        if found is None:
            self.fail(complaint)
        self.advance(found.end())
        return found.group()

    def advance(self, position: int) -> None:
        self.position = position
        self.skip_space()

    def skip_space(self) -> None:
        found = _SPACE.match(self.text, self.position)
        assert found is not None
        self.position = found.end()

    def fail(self, reason: str, position: int | None = None, cause: Exception | None = None) -> NoReturn:
        at = self.position if position is None else position
        raise PipelineSyntaxError(self.text, at, reason) from cause
