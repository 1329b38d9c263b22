"""Compress PyTorch models for on-device runtimes: quantize, palettize, and inspect what comes out."""

from graphpress.export_backend import ExportBackend
from graphpress.ir.errors import GraphpressError

__all__ = ["ExportBackend", "GraphpressError"]
