"""Registration of all annotations of passes and ops of backends that saved graphs may contain.

The IR imports this module before it reports an unknown name, so that graphs saved at any point of a pipeline can be
loaded in any process.
"""

from __future__ import annotations

import importlib

from graphpress.ir.ops import lookup_op, register_dialect, with_evaluate
from graphpress.passes.analysis import caches as caches  # imported to register the notes they define
from graphpress.passes.analysis import fusion as fusion
from graphpress.passes.analysis import quantization_points as quantization_points


def _load_coreai() -> None:
    from graphpress.backends.coreai.ops import quantize, register

    register()
    with_evaluate(lookup_op("coreai.quantize"), quantize)


def _load_coreml_metadata() -> None:
    importlib.import_module("graphpress.backends.coreml.metadata_form")  # registers its ops


register_dialect("coreai", _load_coreai)
register_dialect("coreml_metadata", _load_coreml_metadata)
