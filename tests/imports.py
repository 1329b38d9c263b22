"""What Python source imports, read from its text: for tests of what a package needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from attrs import frozen

# Functions that import the module their first argument names. `require` is ours, and says which extra brings it.
_REQUIRE = "require"
_IMPORTERS = (_REQUIRE, "import_module")


@frozen
class Import:
    """An import statement, or a call that imports a module by a literal name.

    Attributes:
        name: the module, or with `from`, the module and each name: ``a.b`` and ``a.b.c``.
        line: where.
        is_typing: it runs for type checkers only.
        is_guarded: a `try` around it handles `ImportError`, or it is a call of `require`.
        is_late: it is in a function.
    """

    name: str
    line: int
    is_typing: bool = False
    is_guarded: bool = False
    is_late: bool = False

    @property
    def top(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]


def imports_of(text: str) -> Iterator[Import]:
    """Every import in a source text, those in functions included, in order."""
    yield from _imports(ast.parse(text), is_typing=False, is_guarded=False, is_late=False)


def _imports(node: ast.AST, *, is_typing: bool, is_guarded: bool, is_late: bool) -> Iterator[Import]:
    for name in _names(node):
        requires = isinstance(node, ast.Call) and _called(node) == _REQUIRE
        yield Import(name, getattr(node, "lineno", 0), is_typing, is_guarded or requires, is_late)
    late = is_late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _imports(
                    child,
                    is_typing=is_typing or (field == "body" and _is_for_checkers(node)),
                    is_guarded=is_guarded or (field == "body" and _handles_import_errors(node)),
                    is_late=late,
                )


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative imports are not used here"
        assert node.module is not None
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and node.args:
        first = node.args[0]
        if _called(node) in _IMPORTERS and isinstance(first, ast.Constant) and isinstance(first.value, str):
            return [first.value]
    return []


def _called(node: ast.Call) -> str:
    """The last part of the name of the function that is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _handles_import_errors(node: ast.AST) -> bool:
    return isinstance(node, ast.Try) and any("ImportError" in ast.unparse(each.type or node) for each in node.handlers)
