"""Tokenizer of the text form, and parse errors with source positions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple, TypeVar

from graphpress.ir.errors import GraphpressError, suggestion

T = TypeVar("T")

_EXCERPT = 100
MOST_DIGITS = 100
"""Digits of the longest integer that the text form holds."""


class ParseError(GraphpressError, ValueError):
    """Invalid text.

    `line` and `column` count from 1; the message shows the line with a caret under the error.
    """

    def __init__(self, message: str, text: str, offset: int, source: str = ""):
        self.message, self.text, self.offset, self.source = message, text, offset, source
        self.line = text.count("\n", 0, offset) + 1
        start = text.rfind("\n", 0, offset) + 1
        self.column = offset - start + 1
        end = text.find("\n", offset)
        line = text[start : len(text) if end < 0 else end]
        cut = max(0, self.column - 1 - _EXCERPT // 2)
        before = "... " if cut else ""
        shown = before + line[cut : cut + _EXCERPT]
        padding = " " * len(before) + re.sub(r"[^\t]", " ", line[cut : self.column - 1])
        where = f"{source + ': ' if source else ''}line {self.line}, column {self.column}"
        super().__init__(f"{where}: {message}\n  {shown}\n  {padding}^")

    def __reduce__(self) -> tuple[type, tuple[str, str, int, str]]:
        return ParseError, (self.message, self.text, self.offset, self.source)


class Token(NamedTuple):
    """A token; `kind` is ``ref``, ``string``, ``number``, ``word``, ``punct`` or ``end``."""

    kind: str
    text: str
    start: int
    end: int


PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

# Possessive quantifiers keep no positions to come back to, which would take a hundred bytes for each character.
_TRIVIA = re.compile(r"(?:[ \t\r\n]++|//[^\n]*+)*+")
STRING = r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
_TOKEN = re.compile(
    rf"(?P<ref>[%@](?:{PLAIN_NAME.pattern}|{STRING})(?:#[0-9]+)?)"
    rf"|(?P<string>{STRING})"
    r"|(?P<number>-?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|(?:inf|nan)(?![A-Za-z0-9_.])))"
    rf"|(?P<word>{PLAIN_NAME.pattern})"
    r"|(?P<punct>[{}()\[\],:=])"
)


def quote(text: str) -> str:
    """Quote `text` as a JSON string, with invisible characters escaped."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def name_text(name: str) -> str:
    """Return `name` if it is plain (letters, digits, ``_``, ``.``), and quoted otherwise."""
    return name if PLAIN_NAME.fullmatch(name) else quote(name)


class Scanner:
    """Reads tokens from `text` with one token of lookahead."""

    def __init__(self, text: str):
        self.text = text
        self._position = 0
        self._ahead: Token | None = None

    @property
    def position(self) -> int:
        """The offset behind the last token that was consumed."""
        return self._position

    def peek(self) -> Token:
        """Return the next token without consuming it."""
        if self._ahead is None:
            start = self.skip_blanks()
            match = _TOKEN.match(self.text, start)
            if match is not None:
                self._ahead = Token(match.lastgroup or "", match[0], start, match.end())
            elif start >= len(self.text):
                self._ahead = Token("end", "", start, start)
            elif self.text[start] == '"' or self.text[start : start + 2] in ('%"', '@"'):
                raise self.error("a string that does not end on its line", start)
            else:
                raise self.error(f"unexpected character {self.text[start]!r}", start)
        return self._ahead

    def take(self) -> Token:
        """Consume and return the next token."""
        token = self.peek()
        self._ahead, self._position = None, token.end
        return token

    def take_if(self, text: str) -> Token | None:
        """Consume the next token if it is the word or mark `text`."""
        token = self.peek()
        return self.take() if token.text == text and token.kind != "string" else None

    def expect(self, text: str) -> Token:
        """Consume the next token, which must be the word or mark `text`."""
        return self.take_if(text) or self.fail(repr(text))

    def expect_kind(self, kind: str, wanted: str) -> Token:
        """Consume the next token, which must be of `kind`; `wanted` describes it in the error."""
        return self.take() if self.peek().kind == kind else self.fail(wanted)

    def fail(self, wanted: str) -> Token:
        """Raise the error that `wanted` was expected here."""
        token = self.peek()
        shown = token.text if len(token.text) <= _EXCERPT else f"{token.text[:_EXCERPT]}..."
        found = "the end of the text" if token.kind == "end" else repr(shown)
        raise self.error(f"expected {wanted}, found {found}", token.start)

    def error(self, message: str, offset: int) -> ParseError:
        """Create an error at the character `offset`."""
        return ParseError(message, self.text, offset)

    def unknown(self, what: str, name: str, known: Iterable[str], offset: int) -> ParseError:
        """Create the error for an unknown name, with similar names."""
        return self.error(f"no {what} {name}{suggestion(name, known)}", offset)

    def skip_blanks(self) -> int:
        """Skip blanks and comments, and return the offset of the next character."""
        match = _TRIVIA.match(self.text, self._position)
        assert match is not None
        return match.end()

    def jump(self, offset: int) -> None:
        """Continue at `offset`, after text that was read by other rules."""
        self._ahead, self._position = None, offset

    def separated(self, close: str, read: Callable[[], T]) -> list[T]:
        """Read a comma-separated list with `read`, including the closing mark `close`."""
        items: list[T] = []
        while not self.take_if(close):
            items.append(read())
            if not self.take_if(","):
                self.take_if(close) or self.fail(f"',' or {close!r}")
                break
        return items

    def string(self, token: Token) -> str:
        """Decode a string token."""
        return self._unquote(token.text, token.start)

    def name(self, wanted: str) -> tuple[str, int]:
        """Read the next name, plain or quoted, and return it with its offset."""
        token = self.peek()
        if token.kind not in ("word", "string"):
            self.fail(wanted)
        self.take()
        return (self.string(token) if token.kind == "string" else token.text), token.start

    def reference(self, token: Token) -> tuple[str, str, int | None]:
        """Split a reference such as ``%split#1`` or ``@"odd name"`` into sigil, name and result index."""
        body, index = token.text[1:], None
        if body[0] == '"':
            tail = body[body.rindex('"') + 1 :]
            body = self._unquote(body[: body.rindex('"') + 1], token.start + 1)
        else:
            body, mark, tail = body.partition("#")
            tail = mark + tail
        if tail:
            index = self._integer(tail[1:], "the number of a result", token.start)
        return token.text[0], body, index

    def integer(self, wanted: str, most_digits: int = MOST_DIGITS) -> int:
        """Consume the next token as an integer."""
        token = self.expect_kind("number", wanted)
        return self._integer(token.text, wanted, token.start, most_digits)

    def _integer(self, text: str, wanted: str, start: int, most_digits: int = MOST_DIGITS) -> int:
        if len(text) <= most_digits:
            with suppress(ValueError):
                return int(text)
        raise self.error(f"expected {wanted}, found {text[:most_digits]!r}", start)

    def _unquote(self, text: str, start: int) -> str:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise self.error(f"bad string: {error.msg}", start + error.pos) from None
