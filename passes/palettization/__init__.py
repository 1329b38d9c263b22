"""Palettization of one weight: indices into lookup tables, plain or quantized, scalar or vector."""

from graphpress.passes.palettization.errors import PalettizationError, PalettizationWarning, TooSmallError
from graphpress.passes.palettization.kept import kept_indices
from graphpress.passes.palettization.layout import Layout, layout_of
from graphpress.passes.palettization.learned_tables import LearnedTables
from graphpress.passes.palettization.palettize import assign, palettize
from graphpress.passes.palettization.weight import PalettizedWeight

__all__ = [
    "Layout",
    "LearnedTables",
    "PalettizationError",
    "PalettizationWarning",
    "PalettizedWeight",
    "TooSmallError",
    "assign",
    "kept_indices",
    "layout_of",
    "palettize",
]
