"""Text form of plain data: attributes, literals, and the fields of annotations.

====================================  =============================================
None, bool, int, float, str           ``none``, ``true``, ``3``, ``3.0``, ``"text"``
complex                               ``complex(1.0, -0.0)``
tuple or list, dict                   ``[1, 2]``, ``{"key": 1}``
`DType`                               ``f32``
torch dtype, memory format, layout    ``torch.channels_last``
torch device                          ``device("cuda:0")``
slice                                 ``slice(none, 3, none)``
`SymDim`, types                       ``dim("2*s0")``, ``type(f32[1, s0])``
`OpDef`                               ``op("aten.relu")``
Enum member                           ``Scheme.SYMMETRIC``
attrs class                           ``range(minimum=0.0, maximum=6.0)``
====================================  =============================================

Attrs classes and enums are found by the declared type of the field that holds them, or, for classes, as registered
annotations. Fields with their default values are omitted. Reading makes only such objects and never runs or
imports anything.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

import attrs
import torch

from graphpress.ir.annotations import AnnotationError, annotation_class, annotation_name
from graphpress.ir.dtypes import DType
from graphpress.ir.errors import GraphpressError
from graphpress.ir.ops import OpDef, OpError, lookup_op
from graphpress.ir.plain import PlainError, constructor_fields, default_of, field_types
from graphpress.ir.text.tokens import Scanner, Token, name_text, quote
from graphpress.ir.text.types import TypeReader, format_type
from graphpress.ir.types import OpaqueType, ScalarType, SymDim, TensorType

_TORCH_NAMES = (torch.dtype, torch.memory_format, torch.layout)
_WORDS = {"none": None, "true": True, "false": False}
_DTYPES = {dtype.value: dtype for dtype in DType}
_NO_CLASSES: Mapping[str, type] = {}

Extra = Callable[[Any], str | None]
T = TypeVar("T")


class TextFormError(GraphpressError, TypeError):
    """A value that the text form cannot represent."""


MOST_NESTED_VALUES = 64
"""Levels of lists, dictionaries and objects that the text form holds."""

MOST_OTHER_KEYS = 1000
"""Keys of a dictionary that are no strings. Equal hashes are easily found for numbers; each such key is compared."""


def format_value(
    value: Any, extra: Extra = lambda value: None, classes: Mapping[str, type] = _NO_CLASSES, depth: int = 0
) -> str:
    """Write `value` in the text form.

    Args:
        value: plain data.
        extra: a function that writes values that are no plain data (SSA values, nested graphs), and returns None for
            others.
        classes: the classes and enums that the declared type allows.
        depth: in how many values this one is.

    Raises:
        TextFormError: if no text reads back as the same value.
    """
    kind = type(value)
    if kind is str:
        return quote(value)
    if kind is float or kind is int:
        return repr(value)
    if value is None or kind is bool:
        return "none" if value is None else "true" if value else "false"
    if kind is DType:
        return value.value
    if isinstance(value, tuple | list):
        inner = _deeper(depth)
        return f"[{', '.join([format_value(item, extra, classes, inner) for item in value])}]"
    if isinstance(value, dict):
        inner = _deeper(depth)
        if _has_too_many(value):
            raise TextFormError(f"a dictionary has more than {MOST_OTHER_KEYS} keys that are no strings")
        pairs = [
            f"{format_value(k, extra, classes, inner)}: {format_value(v, extra, classes, inner)}"
            for k, v in value.items()
        ]
        return f"{{{', '.join(pairs)}}}"
    text = extra(value)
    return text if text is not None else _format_rare(value, extra, classes, depth)


def _deeper(depth: int) -> int:
    if depth == MOST_NESTED_VALUES:
        raise TextFormError(f"a value is nested too deeply to be stored; accepted: {MOST_NESTED_VALUES} levels")
    return depth + 1


def _has_too_many(keys: Collection[Any]) -> bool:
    return len(keys) > MOST_OTHER_KEYS and sum(type(key) is not str for key in keys) > MOST_OTHER_KEYS


def _format_rare(value: Any, extra: Extra, classes: Mapping[str, type], depth: int) -> str:
    match value:
        case complex():
            return f"complex({value.real!r}, {value.imag!r})"
        case torch.dtype() | torch.memory_format() | torch.layout():
            return str(value)
        case torch.device():
            return f"device({quote(str(value))})"
        case slice():
            bounds = (value.start, value.stop, value.step)
            return f"slice({', '.join([format_value(bound, extra, depth=_deeper(depth)) for bound in bounds])})"
        case SymDim():
            return f"dim({quote(value.expression)})"
        case TensorType() | ScalarType() | OpaqueType():
            return f"type({format_type(value)})"
        case OpDef():
            return f"op({quote(value.name)})"
        case Enum() if classes.get(type(value).__name__) is type(value):
            return f"{type(value).__name__}.{value.name}"
    if attrs.has(type(value)):
        return _format_object(value, extra, classes, depth)
    raise TextFormError(f"the text form cannot represent {value!r} of type {type(value).__qualname__}")


def _format_object(value: Any, extra: Extra, classes: Mapping[str, type], depth: int) -> str:
    """Write an attrs object as the name of its class and its fields."""
    cls, inner = type(value), _deeper(depth)
    name = class_name(cls)
    if not _is_registered(cls) and classes.get(name) is not cls:
        raise TextFormError(
            f"the class {cls.__qualname__} cannot be found when the text is read: name it in the type of the "
            "field that holds it, or register it with graphpress.ir.annotation"
        )
    allowed, defaults = field_classes(cls), _default_texts(cls)  # type: ignore[arg-type]
    fields = []
    for field in constructor_fields(cls):
        text = format_value(getattr(value, field.name), extra, allowed[field.alias], inner)
        if text != defaults.get(field.alias):
            fields.append(f"{field.alias}={text}")
    return f"{name_text(name)}({', '.join(fields)})"


def class_name(cls: type) -> str:
    """The name of an attrs class in the text form: the one it is registered under, or its own."""
    return annotation_name(cls) if _is_registered(cls) else cls.__name__


def _is_registered(cls: type) -> bool:
    try:
        annotation_name(cls)
    except AnnotationError:
        return False
    return True


@lru_cache(maxsize=1024)
def _default_texts(cls: type) -> dict[str, str]:
    """The defaults of an attrs class by field, in the text form."""
    allowed, found = field_classes(cls), {}
    for field in constructor_fields(cls):
        with suppress(TextFormError):
            found[field.alias] = format_value(default_of(field), classes=allowed[field.alias])
    return found


def field_classes(cls: type) -> dict[str, dict[str, type]]:
    """The attrs classes and enums in the declared type of each field of an attrs class, by name.

    Subclasses are included, also those of a plain base class and of modules imported since the last call.
    """
    try:
        hints = field_types(cls)
    except PlainError:  # annotations that only the defining function can resolve
        hints = {}
    found: dict[str, dict[str, type]] = {}
    for field in constructor_fields(cls):
        found[field.alias] = {}
        _collect_classes(hints.get(field.alias), found[field.alias])
    return found


def _collect_classes(hint: Any, found: dict[str, type]) -> None:
    if isinstance(hint, type) and hint.__module__ != "builtins":
        if attrs.has(hint) or issubclass(hint, Enum):
            found.setdefault(class_name(hint), hint)
        subclasses: list[type] = hint.__subclasses__()
        for subclass in subclasses:
            _collect_classes(subclass, found)
    for argument in typing.get_args(hint):
        _collect_classes(argument, found)


class ValueReader:
    """Reads plain data, the inverse of `format_value`.

    `read_extra` is called first for each token that may start other than plain data (a reference, the word ``graph``);
    it returns a value in a one-tuple, or None to decline.
    """

    def __init__(self, scanner: Scanner, types: TypeReader, read_extra: Callable[[Token], tuple[Any] | None]):
        self._scanner = scanner
        self._types = types
        self._read_extra = read_extra
        self._depth = 0

    def read(self, classes: Mapping[str, type] = _NO_CLASSES) -> Any:
        """Read the next value; `classes` are those that its declared type allows."""
        scanner = self._scanner
        token = scanner.peek()
        match token.kind:
            case "number":
                scanner.take()
                return self._number(token)
            case "string":
                scanner.take()
                text = scanner.string(token)
                return self._object(text, token, classes) if scanner.peek().text == "(" else text
            case "word" if token.text in _WORDS:
                scanner.take()
                return _WORDS[token.text]
            case "punct" if token.text == "[":
                scanner.take()
                return tuple(self._items("]", lambda: self.read(classes)))
            case "punct" if token.text == "{":
                scanner.take()
                return self._dictionary(token, classes)
        found = self._read_extra(token)
        if found is not None:
            return found[0]
        if token.kind != "word":
            scanner.fail("a value")
        scanner.take()
        return self._word(token, classes)

    def read_fields(self, cls: type, start: int) -> Any:
        """Read an instance of `cls` from its fields in parentheses."""
        scanner = self._scanner
        allowed = field_classes(cls)
        fields: dict[str, Any] = {}

        def read_field() -> None:
            name, at = scanner.name("a field name")
            if name not in allowed or name in fields:
                if name in fields:
                    raise scanner.error(f"field {name!r} is given twice", at)
                raise scanner.unknown(f"field of {class_name(cls)}", repr(name), allowed, at)
            scanner.expect("=")
            fields[name] = self.read(allowed[name])

        scanner.expect("(")
        self._items(")", read_field)
        try:
            return cls(**fields)
        except (TypeError, ValueError, GraphpressError) as error:
            raise scanner.error(f"bad {class_name(cls)}: {error}", start) from error

    def _items(self, close: str, read: Callable[[], T]) -> list[T]:
        """Read the items of a value, including the closing mark."""
        if self._depth == MOST_NESTED_VALUES:
            wanted = f"accepted: {MOST_NESTED_VALUES} levels"
            raise self._scanner.error(f"values are nested too deeply; {wanted}", self._scanner.skip_blanks())
        self._depth += 1
        items = self._scanner.separated(close, read)
        self._depth -= 1
        return items

    def _number(self, token: Token) -> int | float:
        text = token.text
        if text.removeprefix("-").isdigit():
            try:
                return int(text)
            except ValueError as error:
                raise self._scanner.error(str(error), token.start) from None
        return float(text)

    def _dictionary(self, token: Token, classes: Mapping[str, type]) -> dict[Any, Any]:
        pairs = self._items("}", lambda: self._pair(classes))
        if _has_too_many([key for key, _ in pairs]):
            wanted = f"accepted: {MOST_OTHER_KEYS} keys that are no strings"
            raise self._scanner.error(f"a dictionary has too many keys; {wanted}", token.start)
        return dict(pairs)

    def _pair(self, classes: Mapping[str, type]) -> tuple[Any, Any]:
        start = self._scanner.skip_blanks()
        key = self.read(classes)
        try:
            hash(key)
        except TypeError:
            raise self._scanner.error("this cannot be a key", start) from None
        self._scanner.expect(":")
        return key, self.read(classes)

    def _word(self, token: Token, classes: Mapping[str, type]) -> Any:
        scanner, word = self._scanner, token.text
        if scanner.peek().text == "(":
            match word:
                case "complex":
                    scanner.take()
                    real, _, imaginary = self._float(), scanner.expect(","), self._float()
                    scanner.expect(")")
                    return complex(real, imaginary)
                case "device" | "dim" | "op":
                    scanner.take()
                    text = scanner.string(scanner.expect_kind("string", "a string"))
                    scanner.expect(")")
                    return {"device": self._device, "dim": self._dim, "op": self._op}[word](text, token)
                case "slice":
                    scanner.take()
                    bounds = self._items(")", self.read)
                    if not 1 <= len(bounds) <= 3:
                        raise scanner.error("a slice has start, stop and step", token.start)
                    return slice(*bounds)
                case "object":
                    raise scanner.error("an object without text form was printed here; it cannot be read", token.start)
                case "type":
                    scanner.take()
                    found = self._types.read()
                    scanner.expect(")")
                    return found
            return self._object(word, token, classes)
        if word in _DTYPES:
            return _DTYPES[word]
        head, _, tail = word.rpartition(".")
        if head == "torch" and isinstance(vars(torch).get(tail), _TORCH_NAMES):  # an attribute of torch may import
            return vars(torch)[tail]
        enum = classes.get(head)
        if enum is not None and issubclass(enum, Enum):
            if tail not in enum.__members__:
                raise scanner.unknown(f"member of {head}", repr(tail), enum.__members__, token.start)
            return enum[tail]
        raise scanner.unknown("value", repr(word), [*_WORDS, *_DTYPES, *classes], token.start)

    def _object(self, name: str, token: Token, classes: Mapping[str, type]) -> Any:
        cls = classes.get(name)
        if cls is None or not attrs.has(cls):
            try:
                cls = annotation_class(name)
            except AnnotationError as error:
                hint = "" if "did you mean" in str(error) else "; import the module that defines it first"
                raise self._scanner.error(f"{error}{hint}", token.start) from None
        return self.read_fields(cls, token.start)

    def _float(self) -> float:
        return float(self._number(self._scanner.expect_kind("number", "a number")))

    def _dim(self, text: str, token: Token) -> SymDim:
        return SymDim(text)

    def _op(self, text: str, token: Token) -> OpDef:
        try:
            return lookup_op(text)
        except OpError as error:
            raise self._scanner.error(str(error), token.start) from None

    def _device(self, text: str, token: Token) -> torch.device:
        try:
            return torch.device(text)
        except RuntimeError as error:
            raise self._scanner.error(str(error).split("\n")[0], token.start) from None
