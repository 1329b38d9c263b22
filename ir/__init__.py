"""Part of graphpress."""

from graphpress.ir.equality import difference
from graphpress.ir.parser import ParseError, parse_graph
from graphpress.ir.printer import print_graph

__all__ = ["ParseError", "difference", "parse_graph", "print_graph"]
