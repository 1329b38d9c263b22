"""Check of `.pt2` archives from strangers, before torch's loader sees them.

torch evaluates symbolic expressions as Python, unpickles opaque constants, loads compiled libraries, and imports the
modules that pytree specs name. An archive with any of these is refused, so that loading it runs no code.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphpress.ir.accepted_ops import refusal
from graphpress.ir.errors import GraphpressError

_SIZE_RATIO = 100
_EXPRESSION = re.compile(r"[A-Za-z0-9_+\-*/%(), .<>=&|~!]{1,4096}")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYMBOL = re.compile(r"(?:s|u|zf|zuf|f|z|b|i|n)[0-9]+(?:_[0-9]+)?")
_FUNCTIONS = frozenset(
    [
        "Add",
        "Mul",
        "Pow",
        "Integer",
        "Rational",
        "FloorDiv",
        "ModularIndexing",
        "Where",
        "PythonMod",
        "Mod",
        "CleanDiv",
        "CeilToInt",
        "FloorToInt",
        "CeilDiv",
        "LShift",
        "RShift",
        "PowByNatural",
        "FloatPow",
        "FloatTrueDiv",
        "IntTrueDiv",
        "IsNonOverlappingAndDenseIndicator",
        "TruncToFloat",
        "TruncToInt",
        "RoundToInt",
        "RoundDecimal",
        "ToFloat",
        "Identity",
        "Max",
        "Min",
        "Abs",
        "floor",
        "ceiling",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "And",
        "Or",
        "Not",
        "Piecewise",
        "True",
        "False",
        "int_oo",
    ]
)
_CALL = re.compile(r"([A-Za-z_0-9)][A-Za-z_0-9]*)\s*\(")
_SYMBOL_CALL = re.compile(r"Symbol\('([A-Za-z0-9_]+)'(?:, [a-z]+=(?:True|False))*\)")
_LONG_NUMBER = re.compile(r"(?<![A-Za-z_0-9])[0-9]{3}")
_NUMBER = re.compile(r"(?<![A-Za-z_0-9])[0-9]+\.?[0-9]*(?:e-?[0-9]+)?")
_POWER = re.compile(r"\*\*\s*(?!-?[0-9]\b)")
_TARGET = re.compile(r"torch\.ops\.([a-z_0-9]+)\.([A-Za-z_0-9.]+)|(?:_operator|math)\.[a-z][a-z_]*|torch\.sym_[a-z]+")


class ArchiveError(GraphpressError):
    """A `.pt2` archive that could run code when loaded, or is damaged."""


def check_archive(path: str | os.PathLike[str]) -> None:
    """Check that loading the `.pt2` archive at `path` runs no code.

    Raises:
        ArchiveError: at the first part that could, with its place.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_entry(path, archive, entry)
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"{path} is not a loadable exported program: {str(error)[:200]}") from error


def _check_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    where = f"{path}: {name}"
    if ".." in name.split("/") or name.startswith("/") or "\\" in name:
        raise ArchiveError(f"{where} has a name outside of the archive")
    if entry.file_size > _SIZE_RATIO * max(entry.compress_size, 1) + 2**20:
        raise ArchiveError(f"{where} inflates {entry.compress_size} bytes to {entry.file_size}; accepted: stored data")
    if name.endswith((".so", ".cubin", ".o", ".cpp", ".dylib", ".dll")) or "data/aotinductor/" in name:
        raise _refused(where, "holds compiled code")
    leaf = name.rsplit("/", 1)[-1]
    if leaf.startswith(("opaque_obj_", "custom_obj_")):
        raise _refused(where, "holds a pickled object")
    if name.endswith(".json"):
        for key, value in _members(json.loads(archive.read(entry))):
            _check_member(where, key, value)


def _members(data: Any) -> Iterator[tuple[str, Any]]:
    waiting = [data]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _check_member(where: str, key: str, value: Any) -> None:
    if key == "expr_str":
        _check_expression(where, value)
    elif key == "use_pickle" and value:
        raise _refused(where, "has a pickled tensor")
    elif key == "path_name" and not (isinstance(value, str) and re.fullmatch(r"(?:weight|tensor)_[0-9]+", value)):
        raise _refused(where, f"names the data file {value!r}")
    elif key == "as_custom_obj":
        raise _refused(where, "has a custom object")
    elif key in ("target", "as_operator") and isinstance(value, str):
        _check_target(where, value)
    elif key in ("in_spec", "out_spec") and isinstance(value, str):
        _check_spec(where, value)
    elif key == "guards_code" and value:
        for each in value if isinstance(value, list) else [value]:
            if "__" in str(each) or "import" in str(each):
                raise _refused(where, f"has the guard {str(each)[:80]!r}")


def _check_expression(where: str, given: Any) -> None:
    # torch writes symbols and numbers as calls: Mul(Integer(2), Symbol('s77', positive=True, integer=True))
    text = _SYMBOL_CALL.sub(r"\1", given) if isinstance(given, str) else given
    good = isinstance(text, str) and _EXPRESSION.fullmatch(text) and not _POWER.search(text)
    if good:
        rest = _NUMBER.sub(" ", text)
        good = "." not in rest and all(_FUNCTIONS.__contains__(w) or _SYMBOL.fullmatch(w) for w in _WORD.findall(rest))
        good = good and all(call in _FUNCTIONS for call in _CALL.findall(text))
        good = good and all(len(number) <= 24 and "e" not in number for number in _NUMBER.findall(text))
        grows = "**" in text or any(
            word in ("Pow", "PowByNatural", "FloatPow", "LShift") for word in _WORD.findall(rest)
        )
        good = good and not (
            grows and (text.count("Pow") + text.count("LShift") + text.count("**") > 1 or _LONG_NUMBER.search(text))
        )
    if not good:
        raise ArchiveError(
            f"{where} has the expression {str(given)[:80]!r}; accepted: sizes such as 2*s0 or FloorDiv(s0, 2)"
        )


def _check_target(where: str, text: str) -> None:
    found = _TARGET.fullmatch(text)
    if found is None or "__" in text:
        if re.fullmatch(r"[A-Za-z_0-9.]*", text) and not text.startswith(("torch", "_operator", "math", "#")):
            return  # also the qualified name of a parameter; torch resolves no such name
        raise _refused(where, f"calls {text[:80]!r}")
    if found[1] is not None:
        dialect = "hop" if found[1] == "higher_order" else found[1]
        reason = refusal(f"{dialect}.{found[2]}")
        if reason is not None:
            raise ArchiveError(f"{where}: {reason}")


def _check_spec(where: str, text: str) -> None:
    for key, value in _members(json.loads(text)):
        if key == "__enum__" or "default_factory_module" in key or (isinstance(value, str) and "__enum__" in value):
            raise _refused(where, "names a module in how its arguments nest")
        if key == "context" and isinstance(value, str) and "default_factory" in value:
            raise _refused(where, "names a module in how its arguments nest")


def _refused(where: str, what: str) -> ArchiveError:
    return ArchiveError(
        f"{where} {what}, which may run code when loaded; torch.export.load reads it, for files you trust"
    )
