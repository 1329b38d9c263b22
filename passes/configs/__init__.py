"""Configs: which tensors of a model get which spec, and how that is decided."""

from graphpress.passes.configs.base import CompressionConfig, ModuleCompressionConfig, OpCompressionConfig
from graphpress.passes.configs.palettization import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    OpKMeansPalettizerConfig,
    PATSchedule,
)
from graphpress.passes.configs.presets import PresetError
from graphpress.passes.configs.pruning import (
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    OpMagnitudePrunerConfig,
)
from graphpress.passes.configs.quantization import (
    ExecutionMode,
    InvalidExecutionModeError,
    KVCacheQuantConfig,
    ModuleQuantizerConfig,
    OpQuantizerConfig,
    QATSchedule,
    QuantizerConfig,
)
from graphpress.passes.configs.resolution import ConfigResolver, Decision, Governing
from graphpress.passes.configs.rules import ModuleLevel, OpLevel
from graphpress.passes.configs.sites import ModuleScope, ModuleStack, OpSite
from graphpress.passes.configs.unmatched import (
    UnmatchedConfigError,
    UnmatchedConfigWarning,
    UnmatchedEntry,
    report_unmatched,
    unmatched_entries,
)

__all__ = [
    "CompressionConfig",
    "ConfigResolver",
    "Decision",
    "ExecutionMode",
    "Governing",
    "InvalidExecutionModeError",
    "KMeansPalettizerConfig",
    "KVCacheQuantConfig",
    "MagnitudePrunerConfig",
    "ModuleCompressionConfig",
    "ModuleKMeansPalettizerConfig",
    "ModuleLevel",
    "ModuleMagnitudePrunerConfig",
    "ModuleQuantizerConfig",
    "ModuleScope",
    "ModuleStack",
    "OpCompressionConfig",
    "OpKMeansPalettizerConfig",
    "OpLevel",
    "OpMagnitudePrunerConfig",
    "OpQuantizerConfig",
    "OpSite",
    "PATSchedule",
    "PresetError",
    "QATSchedule",
    "QuantizerConfig",
    "UnmatchedConfigError",
    "UnmatchedConfigWarning",
    "UnmatchedEntry",
    "report_unmatched",
    "unmatched_entries",
]
