"""Batch norms of a program as parts of its weights, or as a product and a sum with constants.

Converters fold a norm into a dense weight only. Into a compressed one it goes through a scale per channel beside its
codes or its table. A norm that no layer can absorb becomes one multiply-add, the least that can be left to run time.
"""

from __future__ import annotations

from torch.export import ExportedProgram

from graphpress.backends import exporting
from graphpress.passes.analysis.facts import CANONICAL, QUANTIZERS_CONVERTED
from graphpress.passes.framework import Pipeline

_FOLDING = "raise-from-coreai,fold-batch-norm,fold-constants"


def with_folded_norms(program: ExportedProgram) -> ExportedProgram:
    """Return a program in Core AI's ops with its norms folded into weights where these can absorb them.

    A program without batch norms is returned itself.

    Raises:
        ConversionError: if torch cannot trace the result.
        LoweringError: for compressed weights that Core AI cannot store.
    """
    return _rewritten(program, f"{_FOLDING},dce,lower-to-coreai")


def without_norms(program: ExportedProgram) -> ExportedProgram:
    """Return what `with_folded_norms` does, with the norms that are left as a product and a sum with constants.

    Raises:
        ConversionError: if torch cannot trace the result.
        LoweringError: for compressed weights that Core AI cannot store.
    """
    return _rewritten(program, f"{_FOLDING},spell-out-batch-norm,dce,lower-to-coreai")


def _rewritten(program: ExportedProgram, passes: str) -> ExportedProgram:
    """Run passes by name: those of Core AI's ops are in a package whose converter imports this module."""
    if not any("batch_norm" in str(node.target) for node in program.graph.nodes):
        return program
    pipeline = Pipeline.parse(passes, assume=[CANONICAL, QUANTIZERS_CONVERTED])
    return exporting.rewritten(program, pipeline, "without its batch norms")
