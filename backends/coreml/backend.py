"""Core ML as a registered backend."""

from __future__ import annotations

from os import PathLike
from typing import Any

from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.coreml.convert import convert
from graphpress.backends.coreml.package import PackageInfo


class CoremlBackend:
    """Apple's Core ML: `.mlpackage`s, made from the program for Core AI."""

    name = "coreml"

    def lowering(self) -> tuple[LowerToCoreai, ...]:
        """Every `quant` op becomes the `coreai` op of the same meaning, which `convert` translates."""
        return (LowerToCoreai(),)

    def convert(self, model: Any, path: str | PathLike[str], example_inputs: Any = None) -> PackageInfo:
        """See `graphpress.backends.coreml.convert`; the target is iOS18."""
        return convert(model, path, example_inputs)
