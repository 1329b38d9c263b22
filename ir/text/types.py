"""Text form of types: ``f32[1, s0//2]``, ``int(2*s0)``, ``opaque("token")``."""

from __future__ import annotations

import re
from functools import lru_cache

from graphpress.ir.dtypes import DType, DTypeError
from graphpress.ir.text.tokens import MOST_DIGITS, Scanner, quote
from graphpress.ir.types import Dim, DimError, OpaqueType, ScalarType, SymDim, TensorType, Type

_SCALARS = ("int", "float", "bool", "complex", "str", "NoneType")
_INTEGER = re.compile(r"-?[0-9]+")
_BARE_DIM = re.compile(r"[A-Za-z0-9_(-][A-Za-z0-9_+\-*/%()., ]*")
_TENSOR = re.compile(r'[a-z][a-z0-9_]*\[[^\]"\n]*\]')


def format_type(type: Type) -> str:
    """Return the text form of `type`."""
    match type:
        case TensorType():
            return _format_tensor(type)
        case ScalarType(kind=kind, value=value):
            if kind in _SCALARS:
                return kind if value is None else f"{kind}({_format_dim(value)})"
            return f"scalar({quote(kind)}{'' if value is None else f', {_format_dim(value)}'})"
        case OpaqueType(description=description):
            return f"opaque({quote(description)})"
    raise TypeError(f"{type!r} is not a type of the IR")


@lru_cache(maxsize=8192)
def _format_tensor(type: TensorType) -> str:
    return f"{type.dtype.value}[{', '.join(map(_format_dim, type.shape))}]"


def _format_dim(dim: Dim) -> str:
    if isinstance(dim, SymDim):
        return _format_expression(dim.expression)
    return str(dim).lower()


@lru_cache(maxsize=8192)
def _format_expression(expression: str) -> str:
    """Quote the expression unless `_read_dim` reads the bare form back."""
    bare = _BARE_DIM.fullmatch(expression) and expression == expression.strip() and _is_closed(expression)
    if not bare or _INTEGER.fullmatch(expression) or expression in ("true", "false"):
        return quote(expression)
    try:
        SymDim(expression).symbols  # noqa: B018
    except DimError:
        return quote(expression)
    return expression


def _is_closed(expression: str) -> bool:
    """Return True if no comma or bracket would end the expression early."""
    depth = 0
    for character in expression:
        depth += (character == "(") - (character == ")")
        if depth < 0 or (character == "," and depth == 0):
            return False
    return depth == 0


class TypeReader:
    """Reads types.

    Attributes:
        seen: the tensor types read so far, by text.
    """

    def __init__(self, scanner: Scanner):
        self._scanner = scanner
        self.seen: dict[str, Type] = {}

    def read(self) -> Type:
        """Read the next type."""
        scanner = self._scanner
        start = scanner.skip_blanks()
        found = _TENSOR.match(scanner.text, start)
        if found is not None and found[0] in self.seen:
            scanner.jump(found.end())
            return self.seen[found[0]]
        head = scanner.expect_kind("word", "a type such as f32[1, 3]")
        if scanner.text[head.end : head.end + 1] == "[":
            type: Type = self._tensor(head.text, start)
        else:
            type = self._other(head.text, start)
        if found is not None:
            self.seen[found[0]] = type
        return type

    def _tensor(self, dtype: str, start: int) -> TensorType:
        try:
            element = DType.of(dtype)
        except DTypeError as error:
            raise self._scanner.error(str(error), start) from None
        self._scanner.expect("[")
        return TensorType(element, self._scanner.separated("]", self._dim))

    def _other(self, kind: str, start: int) -> Type:
        scanner = self._scanner
        if kind in _SCALARS:
            value = None
            if scanner.take_if("("):
                value = self._dim()
                scanner.expect(")")
            return ScalarType(kind, value)
        if kind not in ("opaque", "scalar"):
            known = (*(dtype.value for dtype in DType), *_SCALARS, "opaque", "scalar")
            raise scanner.unknown("type", repr(kind), known, start)
        scanner.expect("(")
        text = scanner.string(scanner.expect_kind("string", "a string"))
        value = self._dim() if kind == "scalar" and scanner.take_if(",") else None
        scanner.expect(")")
        return OpaqueType(text) if kind == "opaque" else ScalarType(text, value)

    def _dim(self) -> Dim:
        """Read an integer, or an expression up to the comma or bracket that ends it."""
        scanner = self._scanner
        start = scanner.skip_blanks()
        if scanner.text[start : start + 1] == '"':
            return SymDim(scanner.string(scanner.expect_kind("string", "a dim such as 3 or s0")))
        depth, end, text = 0, start, scanner.text
        while end < len(text) and text[end] not in '"\n[]{}=:' and not (depth == 0 and text[end] in ",)"):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        expression = text[start:end].strip()
        scanner.jump(end)
        if _INTEGER.fullmatch(expression):
            if len(expression) > MOST_DIGITS:
                raise scanner.error(f"a dim of {len(expression)} digits", start)
            return int(expression)
        if expression in ("true", "false"):
            return expression == "true"
        if not expression:
            raise scanner.error("expected a dim such as 3 or s0", start)
        try:
            SymDim(expression).symbols  # noqa: B018
        except DimError as error:
            raise scanner.error(str(error), start) from None
        return SymDim(expression)
