"""Out of the IR, into torch: modules that run and train, and exported programs."""

from graphpress.ir.to_exported_program import to_exported_program
from graphpress.ir.to_graph_module import to_graph_module

__all__ = ["to_exported_program", "to_graph_module"]
