"""Check of `.pt2` archives from strangers, before torch's loader sees them.

torch evaluates symbolic expressions as Python, unpickles opaque constants, loads compiled libraries, and imports the
modules that pytree specs name. An archive with any of these is refused, so that loading it runs no code.
"""

from __future__ import annotations

import ast
import io
import json
import lzma
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.utils._pytree as pytree

from graphpress.ir.accepted_ops import refusal
from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import path_of
from graphpress.ir.symbolic_ops import SYMBOLIC_FUNCTIONS

_SIZE_RATIO = 100
_LONGEST_NAME = 1000
_QUOTES, _CODE = frozenset("\"'\\"), frozenset("()=:;")
_SYMBOL = re.compile(r"(?:s|u|zf|zuf|f|z|b|i|n)[0-9]+(?:_[0-9]+)?")
_FLOAT = re.compile(r"-?[0-9]{0,20}\.?[0-9]{0,40}(?:e[-+]?[0-9]{1,3})?|-?inf|nan")
_FUNCTION_NAMES = """
    Abs Add And BitwiseFn_bitwise_and BitwiseFn_bitwise_or BooleanFalse BooleanTrue CeilDiv CeilToInt CleanDiv Eq
    Equality ExprCondPair FloatPow FloatTrueDiv FloorDiv FloorToInt Ge GreaterThan Gt Identity Infinity IntInfinity
    IntTrueDiv Integer IsNonOverlappingAndDenseIndicator LShift Le LessThan Lt Max Min Mod ModularIndexing Mul Ne
    NegativeInfinity NegativeIntInfinity Not OpaqueUnaryFn_cos OpaqueUnaryFn_exp OpaqueUnaryFn_log
    OpaqueUnaryFn_log2 OpaqueUnaryFn_sin OpaqueUnaryFn_sqrt OpaqueUnaryFn_tan OpaqueUnaryFn_tanh Or Piecewise Pow
    PowByNatural PythonMod RShift Rational RoundDecimal RoundToInt StrictGreaterThan StrictLessThan ToFloat
    TruncToFloat TruncToInt Unequality Where ceiling floor
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_CONSTANTS = frozenset({"int_oo", "oo", "true", "false", "True", "False"})
_COMPARING = frozenset({"Max", "Min", "And", "Or", "Mod", "PythonMod", "ModularIndexing", "Where", "Piecewise"})
_MOST_COMPARED = 20  # arguments of these in one expression
_MOST_TERMS = 200  # of one expression when it is expanded
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
_OPERATORS = (ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context)
_FACTORIES = frozenset({"list", "dict", "set", "tuple", "int", "float", "str", "bool"})
_TARGET = re.compile(
    r"torch\.ops\.([a-z_0-9]+)\.(\w+)(?:\.([A-Za-z]\w*))?|(?:_operator|math|torch(?=\.sym_))\.([a-z][a-z_]*)"
)


class ArchiveError(GraphpressError):
    """A `.pt2` archive that could run code when loaded, or is damaged."""


def check_archive(path: str | os.PathLike[str]) -> io.BytesIO:
    """Check that loading the `.pt2` archive at `path` runs no code, and return a copy, which is safe to load.

    The copy has the members that were checked and nothing else. Readers of archives differ in which directory of an
    archive they find, and in whether a name is in upper case: torch's could find others in the file itself.

    Raises:
        ArchiveError: at the first part that could, with its place.
    """
    path = path_of(path)
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as checked:
            check_sizes(path, archive)
            names: set[str] = set()
            for entry in archive.infolist():
                _check_name(path, entry.filename, names)
                content = archive.read(entry)
                _check_content(path, entry.filename, content)
                checked.writestr(zipfile.ZipInfo(entry.filename), content)
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"{path} is not a loadable exported program: {str(error)[:200]}") from error
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise ArchiveError(f"{path} is damaged: {error}") from error
    copy.seek(0)
    return copy


def check_sizes(path: Path, archive: zipfile.ZipFile, slack: int = 2**20) -> None:
    """Check that the members of an archive are not much larger than the archive, before any is read.

    Args:
        path: of the archive.
        archive: the archive, open.
        slack: bytes that a member may have in any case.

    Raises:
        ArchiveError: if one inflates more than deflated data does, or members share their bytes.
    """
    for entry in archive.infolist():
        if entry.file_size > _SIZE_RATIO * max(entry.compress_size, 1) + slack:
            inflation = f"inflates {entry.compress_size} bytes to {entry.file_size}"
            raise ArchiveError(f"{path}: {entry.filename} {inflation}; accepted: stored data")
    if sum(entry.compress_size for entry in archive.infolist()) > path.stat().st_size:
        raise ArchiveError(f"{path} has members that overlap")


def _check_name(path: Path, name: str, names: set[str]) -> None:
    where = f"{path}: {name}"
    if ".." in name.split("/") or name.startswith("/") or "\\" in name:
        raise ArchiveError(f"{where} has a name outside of the archive")
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ArchiveError(f"{where} has a name that torch does not write")
    if name.lower() in names:
        raise ArchiveError(f"{where} is there twice")
    names.add(name.lower())


def _check_content(path: Path, name: str, content: bytes) -> None:
    where, name = f"{path}: {name}", name.lower()
    if name.endswith((".so", ".cubin", ".o", ".cpp", ".dylib", ".dll")) or "data/aotinductor/" in name:
        raise _refused(where, "holds compiled code")
    leaf = name.rsplit("/", 1)[-1]
    if leaf.startswith(("opaque_obj_", "custom_obj_")):
        raise _refused(where, "holds a pickled object")
    if name.endswith(".json"):
        for key, value in _members(json.loads(content)):
            _check_text(where, key, value)
            _check_member(where, key, value)


_IDENTIFIERS = frozenset({"name", "as_name", "forward_arg_names"})
_FREE_TEXT = frozenset(
    {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom", "as_string", "as_strings"}
)
_OF_OTHER_RULES = frozenset({"expr_str", "in_spec", "out_spec", "guards_code"})


def _check_text(where: str, key: str, value: Any) -> None:
    """Check the texts in one member: torch writes names of values and parameters into source code that it compiles."""
    _check_unquoted(where, key)
    if key in _FREE_TEXT or key in _OF_OTHER_RULES:
        return
    for text in value if isinstance(value, list) else [value]:
        if key in ("inputs", "value") and isinstance(text, dict):  # an input that is a text, which a guard compares
            text = text.get("as_string")
        if isinstance(text, str):
            _check_unquoted(where, text)
            if key in _IDENTIFIERS and text and not text.isidentifier():
                raise _refused(where, f"has the name {text[:80]!r}")


def _check_unquoted(where: str, text: str) -> None:
    if not text.isprintable() or not _QUOTES.isdisjoint(text):
        raise _refused(where, f"has the text {text[:80]!r}")


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
            _check_expression(where, each, _Sources())


class _Sources(ast.NodeTransformer):
    """Replaces the sizes of inputs in a guard, such as ``L['x'].size()[0]``, by a symbol."""

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.Name("s0") if _is_source(node) else super().generic_visit(node)


def _is_source(node: ast.AST) -> bool:
    """Return True for a part of an input, its sizes, its strides and its offset."""
    while True:
        match node:
            case ast.Name(id="L"):
                return True
            case ast.Call(ast.Attribute(node, "size" | "stride" | "storage_offset"), [], []):
                pass
            case ast.Subscript(value=node, slice=ast.Constant(value=int())):
                pass
            case ast.Subscript(value=node, slice=ast.Constant(value=str(key))) if _is_key(key):
                pass
            case ast.Attribute(value=node, attr=name) if not name.startswith("_"):
                pass
            case _:
                return False


def _is_key(text: str) -> bool:
    """Return True for a key of a dictionary that means nothing else where torch writes it into source code."""
    return text.isprintable() and _QUOTES.isdisjoint(text) and _CODE.isdisjoint(text)


def check_keys(path: Path, inputs: Any) -> None:
    """Check the keys of the dictionaries in the example inputs of a loaded program; torch writes them into its guards.

    Args:
        path: of the archive.
        inputs: positional and keyword inputs, or None.

    Raises:
        ArchiveError: if one could be read as code.
    """
    for keys, _ in pytree.tree_flatten_with_path(inputs)[0]:
        for key in keys:
            text = getattr(key, "key", "")
            if not isinstance(text, str | int | bool | None) or (isinstance(text, str) and not _is_key(text)):
                raise _refused(str(path), f"has the key {str(text)[:80]!r} in its example inputs")


def _check_expression(where: str, given: Any, sources: ast.NodeTransformer | None = None) -> None:
    try:
        if not isinstance(given, str) or len(given) > 2**14:
            raise ValueError
        parsed = ast.parse(given.strip(), mode="eval").body
        parsed = parsed if sources is None else sources.visit(parsed)
        _check_sizes(parsed, powers=0)
        _check_cost(parsed)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ArchiveError(
            f"{where} has the expression {str(given)[:80]!r}; accepted: sizes such as 2*s0 or FloorDiv(s0, 2)"
        ) from None


def _check_sizes(node: ast.AST, powers: int) -> None:
    """Check one part of an expression, inside of `powers` powers.

    Raises:
        ValueError: if it is more than arithmetic on symbols.
    """
    match node:
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords):
            good = name.isidentifier() and all(isinstance(each.value, ast.Constant) for each in keywords)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(digits))], keywords=keywords):
            precisions = [each.value.value for each in keywords if isinstance(each.value, ast.Constant)]
            good = _FLOAT.fullmatch(digits) is not None and precisions in ([], [53])
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            good = name in _FUNCTIONS
            powers += name in _POWERS
            if name in _POWERS:
                good = good and len(args) == 2 and powers <= 2
                _check_exponent(args[-1] if args else node)
            for each in args:
                _check_sizes(each, powers)
        case ast.BinOp(left=left, op=op, right=right):
            is_power = isinstance(op, ast.Pow | ast.LShift)
            good = powers + is_power <= 2 and not isinstance(op, ast.MatMult)
            if is_power:
                _check_exponent(right)
            _check_sizes(left, powers + is_power)
            _check_sizes(right, powers + is_power)
        case ast.UnaryOp() | ast.BoolOp() | ast.Compare() | ast.Tuple():
            good = not isinstance(node, ast.Compare) or not any(
                isinstance(op, ast.In | ast.NotIn | ast.Is | ast.IsNot) for op in node.ops
            )
            for part in ast.iter_child_nodes(node):
                if not isinstance(part, _OPERATORS):
                    _check_sizes(part, powers)
        case ast.Name(id=name):
            good = name in _CONSTANTS or _SYMBOL.fullmatch(name) is not None
        case ast.Constant(value=bool() | float()):
            good = True
        case ast.Constant(value=int(number)):
            good = abs(number) < 2**64
        case _:
            good = False
    if not good:
        raise ValueError


def _check_cost(node: ast.AST) -> None:
    """Check that sympy handles an expression in little time: it expands products, and compares arguments in pairs.

    Raises:
        ValueError: if it may not.
    """
    compared = 0
    for each in ast.walk(node):
        match each:
            case ast.Call(func=ast.Name(id=name), args=parts) if name in _COMPARING:
                compared += len(parts)
            case ast.BoolOp(values=parts):
                compared += len(parts)
            case ast.Mod():
                compared += 1
    if compared > _MOST_COMPARED or _terms(node) > _MOST_TERMS:
        raise ValueError


def _terms(node: ast.AST) -> int:
    """Return the largest number of terms that an expression, or a part of it, has when it is expanded."""
    match node:
        case ast.BinOp(left=left, op=operation, right=right):
            name, parts = type(operation).__name__, [left, right]
        case ast.Call(func=ast.Name(id=name), args=parts):
            pass
        case _:
            name, parts = "", list(ast.iter_child_nodes(node))  # type: ignore[arg-type]
    terms = [min(_terms(each), _MOST_TERMS + 1) for each in parts]
    if name in ("Add", "Sub"):
        return sum(terms)
    if name in ("Mul", "Mult"):
        return math.prod(terms)
    if name in _POWERS:
        numbers = [each.value for each in ast.walk(parts[1]) if isinstance(each, ast.Constant)]
        exponent = max((math.ceil(abs(each)) for each in numbers if isinstance(each, int | float)), default=1)
        return math.comb(terms[0] + exponent - 1, exponent)
    return max(terms, default=1)


def _check_exponent(node: ast.AST) -> None:
    parts = list(ast.walk(node))
    numbers = [each.value for each in parts if isinstance(each, ast.Constant)]
    if any(isinstance(each, ast.Pow | ast.LShift) or getattr(each, "id", "") in _POWERS for each in parts) or any(
        isinstance(number, int | float) and abs(number) > 64 for number in numbers
    ):
        raise ValueError


def _check_target(where: str, text: str) -> None:
    found = _TARGET.fullmatch(text)
    if found is None:
        if re.fullmatch(r"[A-Za-z_0-9.]*", text) and not text.startswith(("torch", "_operator", "math", "#")):
            return  # also the qualified name of a parameter; torch resolves no such name
        raise _refused(where, f"calls {text[:80]!r}")
    dialect, packet, overload, function = found.groups()
    if function is not None and function not in SYMBOLIC_FUNCTIONS:
        raise _refused(where, f"calls {text[:80]!r}")
    if dialect is not None:
        name = f"{'hop' if dialect == 'higher_order' else dialect}.{packet}"
        reason = refusal(name if overload is None else f"{name}.{overload}")
        if reason is not None:
            raise ArchiveError(f"{where}: {reason}")


def _check_spec(where: str, text: str) -> None:
    waiting: list[Any] = [json.loads(text)]
    while waiting:
        found = waiting.pop()
        if isinstance(found, list):
            waiting.extend(found)
        elif isinstance(found, str) and '"' in found:  # JSON in JSON
            waiting.append(json.loads(found))
        elif isinstance(found, str) and not _is_key(found):
            raise _refused(where, f"names {found[:80]!r} in how its arguments nest")
        elif isinstance(found, dict):
            factory = (found.get("default_factory_module"), found.get("default_factory_name"))
            if "__enum__" in found or (factory != (None, None) and factory[0] != "builtins"):
                raise _refused(where, "names a module in how its arguments nest")
            if factory[0] == "builtins" and factory[1] not in _FACTORIES:
                raise _refused(where, f"names the function {str(factory[1])[:80]!r} in how its arguments nest")
            waiting.extend((*found.keys(), *found.values()))


def _refused(where: str, what: str) -> ArchiveError:
    return ArchiveError(
        f"{where} {what}, which may run code when loaded; for a file that you trust: passctl --trust, or "
        "torch.export.load"
    )
