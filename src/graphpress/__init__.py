"""graphpress: a compiler-pass framework that compresses PyTorch models for on-device runtimes."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from graphpress.export_backend import ExportBackend
from graphpress.ir.annotations import register_vocabulary
from graphpress.ir.errors import GraphpressError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from graphpress.aliasing import install_as_coreai_opt as install_as_coreai_opt
    from graphpress.backends.errors import CoreMLExportError as CoreMLExportError
    from graphpress.compiling import compile as compile

__version__ = "0.1.0"

__all__ = ["CoreMLExportError", "ExportBackend", "GraphpressError", "__version__", "compile", "install_as_coreai_opt"]

register_vocabulary("graphpress.vocabulary")

# Attributes that are imported on first access, which keeps `import graphpress` cheap.
_LATER = {
    "CoreMLExportError": "graphpress.backends.errors",
    "DependencyVersionWarning": "graphpress.aliasing",
    "TorchaoTorchIncompatibilityWarning": "graphpress.aliasing",
    "UntestedTorchVersionWarning": "graphpress.aliasing",
    "compile": "graphpress.compiling",
    "install_as_coreai_opt": "graphpress.aliasing",
}


class _LastFinder:
    """Import finder, last in `sys.meta_path`, that resolves former names of this package's modules."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not fullname.startswith("graphpress."):
            return None
        return importlib.import_module("graphpress.aliasing").find_moved(fullname)


sys.meta_path.append(_LastFinder)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
