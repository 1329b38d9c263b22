"""Import of Core ML programs into the IR, as `aten` and `quant` ops."""

from graphpress.backends.coreml.importing.program import from_mil, from_package, unsupported_features

__all__ = ["from_mil", "from_package", "unsupported_features"]
