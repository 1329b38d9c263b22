"""Core AI as a registered backend."""

from __future__ import annotations

from os import PathLike
from typing import Any

from graphpress.backends.coreai.asset import AssetInfo
from graphpress.backends.coreai.convert import convert
from graphpress.backends.coreai.lowering import LowerToCoreai


class CoreaiBackend:
    """Apple's Core AI runtime: `.aimodel` assets."""

    name = "coreai"

    def lowering(self) -> tuple[LowerToCoreai, ...]:
        """Every `quant` op becomes the `coreai` op of the same meaning."""
        return (LowerToCoreai(),)

    def convert(self, model: Any, path: str | PathLike[str], example_inputs: Any = None) -> AssetInfo:
        """See `graphpress.backends.coreai.convert`."""
        return convert(model, path, example_inputs)
