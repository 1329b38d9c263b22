"""Read a saved asset, or a program in memory, into the IR."""

from graphpress.backends.coreai.importing.program import from_asset, from_program, losses

__all__ = ["from_asset", "from_program", "losses"]
