"""Core ML programs as graphs of the IR, in `aten` and `quant` ops, so that every tool for graphs takes packages."""

from graphpress.backends.coreml.importing.program import from_mil, from_package, losses

__all__ = ["from_mil", "from_package", "losses"]
