"""What graphs of this package speak of beyond the IR's own ops: annotations of passes, ops of backends.

The IR imports this before it calls a name unknown, so that a saved graph loads in any process, at whatever point of a
pipeline it was saved.
"""

from __future__ import annotations

from graphpress.ir.ops import lookup_op, register_dialect, with_evaluate
from graphpress.passes.analysis import caches as caches  # these modules register the notes they define
from graphpress.passes.analysis import fusion as fusion
from graphpress.passes.analysis import quantization_points as quantization_points


def _load_coreai() -> None:
    from graphpress.backends.coreai.ops import quantize, register

    register()
    with_evaluate(lookup_op("coreai.quantize"), quantize)


register_dialect("coreai", _load_coreai)
