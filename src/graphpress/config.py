"""Classes shared by the configs of all techniques; each technique has its own `config` module."""

from graphpress.passes.config import (
    ArgumentError,
    CompressionConfig,
    CompressionSpec,
    CompressionTargetTensor,
    CompressionType,
    ModuleCompressionConfig,
    OpCompressionConfig,
    SpecError,
    UnmatchedConfigError,
    UnmatchedConfigWarning,
)

__all__ = [
    "ArgumentError",
    "CompressionConfig",
    "CompressionSpec",
    "CompressionTargetTensor",
    "CompressionType",
    "ModuleCompressionConfig",
    "OpCompressionConfig",
    "SpecError",
    "UnmatchedConfigError",
    "UnmatchedConfigWarning",
]
