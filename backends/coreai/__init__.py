"""Core AI backend: convert torch models to `.aimodel` assets, read them back, run and verify them."""

from graphpress.backends.comparison import CheckReport, OutputCheck
from graphpress.backends.coreai.asset import (
    AssetInfo,
    ConstantInfo,
    FunctionInfo,
    TensorInfo,
    read,
    stored_bytes,
    weight_bytes,
)
from graphpress.backends.coreai.blame import blame
from graphpress.backends.coreai.check import check
from graphpress.backends.coreai.convert import convert
from graphpress.backends.coreai.importing import from_asset, from_program, unsupported_features
from graphpress.backends.coreai.ops import register
from graphpress.backends.coreai.runtime import LoadedModel, load
from graphpress.backends.errors import (
    AssetError,
    ConversionError,
    ExecutionError,
    MissingDependencyError,
    ModelInputError,
)

__all__ = [
    "AssetError",
    "AssetInfo",
    "CheckReport",
    "ConstantInfo",
    "ConversionError",
    "ExecutionError",
    "FunctionInfo",
    "LoadedModel",
    "MissingDependencyError",
    "ModelInputError",
    "OutputCheck",
    "TensorInfo",
    "blame",
    "check",
    "convert",
    "from_asset",
    "from_program",
    "load",
    "read",
    "register",
    "stored_bytes",
    "unsupported_features",
    "weight_bytes",
]
