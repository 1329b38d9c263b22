"""Core ML backend: convert torch models to `.mlpackage`s with exact codes, read them back and verify them."""

from graphpress.backends.coreml.blame import blame
from graphpress.backends.coreml.check import check
from graphpress.backends.coreml.convert import convert
from graphpress.backends.coreml.evaluation import evaluate
from graphpress.backends.coreml.importing import from_mil, from_package, unsupported_features
from graphpress.backends.coreml.legality import Target, TargetError
from graphpress.backends.coreml.package import PackageInfo, StoredConstant, read

__all__ = [
    "PackageInfo",
    "StoredConstant",
    "Target",
    "TargetError",
    "blame",
    "check",
    "convert",
    "evaluate",
    "from_mil",
    "from_package",
    "read",
    "unsupported_features",
]
