"""Batch norms of a program as parts of its weights, or as a product and a sum with constants.

Converters fold a norm into a dense weight only. Into a compressed one it goes through a scale per channel beside its
codes or its table. A norm that no layer can absorb becomes one multiply-add, the least that can be left to run time.
"""

from __future__ import annotations

from torch.export import ExportedProgram

from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.coreai.raising import RaiseFromCoreai
from graphpress.backends.errors import ConversionError
from graphpress.backends.exporting import head
from graphpress.ir.torch import to_exported_program
from graphpress.ir.torch.capture import from_exported_program
from graphpress.passes.analysis.facts import CANONICAL, QUANTIZERS_CONVERTED
from graphpress.passes.dce import Dce
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.spell_out_batch_norm import SpellOutBatchNorm

FOLDED = (RaiseFromCoreai(), FoldBatchNorm(), FoldConstants(), Dce())
SPELLED_OUT = (RaiseFromCoreai(), FoldBatchNorm(), FoldConstants(), SpellOutBatchNorm(), Dce())


def without_norms(program: ExportedProgram, passes: tuple[object, ...]) -> ExportedProgram:
    """Return `program` after `passes`, `FOLDED` or `SPELLED_OUT`; itself if it has no batch norm.

    Raises:
        ConversionError: if torch cannot trace the result.
    """
    if not any("batch_norm" in str(node.target) for node in program.graph.nodes):
        return program
    pipeline = Pipeline(*passes, LowerToCoreai(), assume=[CANONICAL, QUANTIZERS_CONVERTED])  # type: ignore[arg-type]
    try:
        return to_exported_program(Runner().run(from_exported_program(program), pipeline).graph)
    except Exception as error:
        raise ConversionError(f"torch cannot trace the program without its batch norms: {head(error)}") from error
