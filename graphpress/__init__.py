"""graphpress: a compiler-pass framework that compresses PyTorch models for on-device runtimes."""

from graphpress import vocabulary as vocabulary
from graphpress.export_backend import ExportBackend
from graphpress.ir.errors import GraphpressError

__version__ = "0.1.0"

__all__ = ["ExportBackend", "GraphpressError", "__version__"]
