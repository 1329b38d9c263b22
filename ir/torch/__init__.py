"""Import from torch and export to torch, for modules and exported programs."""

from graphpress.ir.torch.graph_module_writer import to_graph_module
from graphpress.ir.torch.program_writer import to_exported_program

__all__ = ["to_exported_program", "to_graph_module"]
