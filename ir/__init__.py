"""Graphs: import and export, text form, verifier, interpreter, storage.

What stands here is imported when it is first asked for, so that a part of the package that needs no torch costs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphpress.ir.equality import difference
    from graphpress.ir.interpreter import Execution, Interpreter, InterpreterError, run
    from graphpress.ir.text.parser import ParseError, parse_graph
    from graphpress.ir.text.printer import print_graph
    from graphpress.ir.text.storage import StorageError, load_graph, save_graph
    from graphpress.ir.torch import to_exported_program, to_graph_module
    from graphpress.ir.torch.capture import ExportError, from_exported_program, from_module
    from graphpress.ir.verifier import VerificationError, verify

__all__ = [
    "Execution",
    "ExportError",
    "Interpreter",
    "InterpreterError",
    "ParseError",
    "StorageError",
    "VerificationError",
    "difference",
    "from_exported_program",
    "from_module",
    "load_graph",
    "parse_graph",
    "print_graph",
    "run",
    "save_graph",
    "to_exported_program",
    "to_graph_module",
    "verify",
]

_HOMES = {
    "equality": ("difference",),
    "interpreter": ("Execution", "Interpreter", "InterpreterError", "run"),
    "text.parser": ("ParseError", "parse_graph"),
    "text.printer": ("print_graph",),
    "text.storage": ("StorageError", "load_graph", "save_graph"),
    "torch": ("to_exported_program", "to_graph_module"),
    "torch.capture": ("ExportError", "from_exported_program", "from_module"),
    "verifier": ("VerificationError", "verify"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
