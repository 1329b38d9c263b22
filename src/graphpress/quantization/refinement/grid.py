"""The values that the codes of a weight can have, and choosing among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir import reference
from graphpress.passes.quantization.qparams import QParams
from graphpress.passes.specs import QuantizationSpec

Arrange = Callable[[Tensor], Tensor]


@frozen
class Grid:
    """The grid of a weight in the form of matrices; every element may have a scale of its own.

    Attributes:
        spec: how the weight is quantized.
        scale, zero_point, minval: float32, in the form of the matrices; the last two may be None.
    """

    spec: QuantizationSpec
    scale: Tensor
    zero_point: Tensor | None
    minval: Tensor | None

    @classmethod
    def of(cls, spec: QuantizationSpec, qparams: QParams, shape: tuple[int, ...], arrange: Arrange) -> Grid:
        """The grid of a weight of `shape`; `arrange` brings a tensor of that shape into the form of the matrices."""

        def whole(parameter: Tensor | None) -> Tensor | None:
            if parameter is None:
                return None
            return arrange(reference.repeat_blocks(parameter.float(), shape).expand(shape).contiguous())

        scale = whole(qparams[0])
        assert scale is not None
        return cls(spec, scale, whole(qparams[1]), whole(qparams[2]))

    def columns(self, index: Tensor | slice) -> Grid:
        """The grid of some columns."""
        zero_point, minval = (None if p is None else p[..., index] for p in (self.zero_point, self.minval))
        return Grid(self.spec, self.scale[..., index], zero_point, minval)

    def places(self, values: Tensor) -> Tensor:
        """The places (see `reference.code_places`) of the codes nearest to `values`."""
        codes = reference.quantize(values, self.scale, self.zero_point, self.minval, **self._how)
        return reference.code_places(codes, self.spec.element_type)

    def values(self, places: Tensor) -> Tensor:
        """What the codes at `places` stand for, float32."""
        codes = reference.codes_of_places(places, self.spec.element_type)
        how = {key: value for key, value in self._how.items() if key != "quant_max"}
        return reference.dequantize(codes, self.scale, self.zero_point, self.minval, **how)

    def clamped(self, places: Tensor) -> Tensor:
        """`places`, within the codes that the spec allows."""
        if self.spec.element_type.is_floating:
            codes = reference.codes_of_places(places, self.spec.element_type)
            return reference.code_places(codes, self.spec.element_type)
        return places.clamp(int(self.spec.quant_min), int(self.spec.quant_max))

    @property
    def _how(self) -> dict[str, Any]:
        how: dict[str, Any] = {"dtype": self.spec.element_type}
        if not self.spec.element_type.is_floating:
            how |= {"quant_min": int(self.spec.quant_min), "quant_max": int(self.spec.quant_max)}
        return how


def offset_to(grid: Grid, weight: Tensor, places: Tensor) -> Tensor:
    """How many steps `places` are from the nearest code of each weight, int8."""
    return (places - grid.places(weight)).clamp(-128, 127).to(torch.int8)
