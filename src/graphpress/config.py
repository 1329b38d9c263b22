"""What the configs of all techniques share; each technique has its own `config` module."""

from graphpress.passes.configs import (
    CompressionConfig,
    ModuleCompressionConfig,
    OpCompressionConfig,
    UnmatchedConfigError,
    UnmatchedConfigWarning,
)
from graphpress.passes.specs import ArgumentError, SpecError

__all__ = [
    "ArgumentError",
    "CompressionConfig",
    "ModuleCompressionConfig",
    "OpCompressionConfig",
    "SpecError",
    "UnmatchedConfigError",
    "UnmatchedConfigWarning",
]
