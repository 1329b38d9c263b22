"""What graphs of this package speak of beyond the IR's own ops: annotations of passes, ops of backends.

Importing the package imports this, so that a saved graph loads in any process, at whatever point of a pipeline it was
saved.
"""

from __future__ import annotations

from graphpress.ir.ops import register_dialect
from graphpress.passes.fusion import groups
from graphpress.passes.quantization import points

ANNOTATIONS = (groups.FusionGroup, points.QuantizationPoints, points.QuantizerNote)
"""The notes that the standard pipelines leave on nodes. Their modules register them."""


def _load_coreai() -> None:
    from graphpress.backends.coreai.ops import register

    register()


register_dialect("coreai", _load_coreai)
