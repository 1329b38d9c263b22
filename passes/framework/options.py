"""Pass options as text.

Options are plain data (`graphpress.ir.plain`) in the syntax of `graphpress.passes.framework.pipeline_text`: numbers are
written by `repr` (``1e-05``, ``inf``, ``nan``), strings as JSON, ``true``, ``false``, ``none``; tuples, lists and sets
as ``[...]``, dicts as ``{"key": value}``; enum members by name, element types by theirs (``i4``); attrs objects as
dicts of the fields that differ from their defaults. It is separate from the parser, which needs the registry of
passes, because passes print themselves.
"""

from __future__ import annotations

import json
from typing import Any

from graphpress.ir.plain import KEYWORDS, PlainError, Word, changed_fields, to_plain
from graphpress.passes.framework.errors import OptionError


def write_value(value: Any) -> str:
    """Write `value` as text.

    Raises:
        OptionError: when there is no text for such values.
    """
    try:
        return _text(to_plain(value, fields=changed_fields))
    except PlainError as error:
        raise OptionError(f"a value of type {type(value).__qualname__} has no text form: {error}") from error


def _text(plain: Any) -> str:
    match plain:
        case None | bool():
            return str(plain).lower()
        case Word() if plain.isidentifier() and plain.isascii() and plain not in KEYWORDS:
            return str(plain)
        case str():
            return json.dumps(plain)
        case dict():
            return "{" + ", ".join(f"{_text(key)}: {_text(item)}" for key, item in plain.items()) + "}"
        case list():
            return "[" + ", ".join(map(_text, plain)) + "]"
    return repr(plain)
