"""Out of the IR, into torch: modules that run and train, and exported programs."""

from graphpress.ir.graph_module_writer import to_graph_module
from graphpress.ir.program_writer import to_exported_program

__all__ = ["to_exported_program", "to_graph_module"]
