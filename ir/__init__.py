"""The graph IR: capture, export, text form, verifier, interpreter and storage.

Names are imported on first access, so that code that does not need torch does not import it.
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

_EXPORTS = {
    "equality": ("difference",),
    "interpreter": ("Execution", "Interpreter", "InterpreterError", "run"),
    "text.parser": ("ParseError", "parse_graph"),
    "text.printer": ("print_graph",),
    "text.storage": ("StorageError", "load_graph", "save_graph"),
    "torch": ("to_exported_program", "to_graph_module"),
    "torch.capture": ("ExportError", "from_exported_program", "from_module"),
    "verifier": ("VerificationError", "verify"),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
