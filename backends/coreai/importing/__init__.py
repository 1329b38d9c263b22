"""Import of saved assets and in-memory programs into the IR."""

from graphpress.backends.coreai.importing.program import from_asset, from_program, unsupported_features

__all__ = ["from_asset", "from_program", "unsupported_features"]
