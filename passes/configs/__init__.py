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

__all__ = [
    "CompressionConfig",
    "ExecutionMode",
    "InvalidExecutionModeError",
    "KMeansPalettizerConfig",
    "KVCacheQuantConfig",
    "MagnitudePrunerConfig",
    "ModuleCompressionConfig",
    "ModuleKMeansPalettizerConfig",
    "ModuleMagnitudePrunerConfig",
    "ModuleQuantizerConfig",
    "OpCompressionConfig",
    "OpKMeansPalettizerConfig",
    "OpMagnitudePrunerConfig",
    "OpQuantizerConfig",
    "PATSchedule",
    "PresetError",
    "QATSchedule",
    "QuantizerConfig",
]
