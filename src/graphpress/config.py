"""What the configs of all techniques share; each technique has its own `config` module."""

from graphpress.passes.config import (
    ArgumentError,
    CompressionConfig,
    ModuleCompressionConfig,
    OpCompressionConfig,
    SpecError,
    UnmatchedConfigError,
    UnmatchedConfigWarning,
)

__all__ = [
    "ArgumentError",
    "CompressionConfig",
    "ModuleCompressionConfig",
    "OpCompressionConfig",
    "SpecError",
    "UnmatchedConfigError",
    "UnmatchedConfigWarning",
]
