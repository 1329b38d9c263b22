"""Part of graphpress."""

from graphpress.ir import quant_ops as quant_ops  # registers the ops that texts and passes name
from graphpress.ir.equality import difference
from graphpress.ir.interpreter import Execution, Interpreter, InterpreterError, run
from graphpress.ir.parser import ParseError, parse_graph
from graphpress.ir.printer import print_graph
from graphpress.ir.storage import StorageError, load_graph, save_graph
from graphpress.ir.torch_export import to_exported_program, to_graph_module
from graphpress.ir.torch_import import ExportError, from_exported_program, from_module
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
