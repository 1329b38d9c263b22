"""The kinds of compression, and the base of the specs of all techniques."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from graphpress.passes.config.plain import PlainForm


class CompressionType(StrEnum):
    """A technique."""

    QUANTIZATION = "quantization"
    PALETTIZATION = "palettization"
    PRUNING = "pruning"


class CompressionTargetTensor(StrEnum):
    """The role of a tensor that is quantized."""

    WEIGHT = "weight"
    ACTIVATION = "activation"
    LUT = "lut"
    """A lookup table of palettized weights."""


class CompressionSpec(PlainForm):
    """Base of the specs: how one tensor is compressed."""

    __slots__ = ()

    compression_type: ClassVar[CompressionType]

    def get_compression_type(self) -> CompressionType:
        """The technique that the spec is for."""
        return self.compression_type
