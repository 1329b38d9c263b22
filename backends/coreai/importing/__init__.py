"""Read a saved asset into the IR."""

from graphpress.backends.coreai.importing.program import from_asset

__all__ = ["from_asset"]
