"""Creation of the components that a quantization spec names."""

from __future__ import annotations

from collections.abc import Sequence

from graphpress.passes.config import (
    RANGE_CALCULATORS,
    CompressionTargetTensor,
    PerTensorGranularity,
    QuantizationSpec,
)
from graphpress.quantization.calculators import QParamsCalculatorBase, RangeCalculatorBase
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, calculator_for, fake_quantizer

__all__ = ["QuantizationComponentFactory"]


class QuantizationComponentFactory:
    """Creates the components that a spec names, for one tensor.

    `quantization_target` is the role of the tensor, which decides what ``"default"`` means. `shape` is its shape, which
    granularities finer than a tensor require.
    """

    @classmethod
    def construct(
        cls, spec: QuantizationSpec | None, target: CompressionTargetTensor | str, *, shape: Sequence[int] = ()
    ) -> FakeQuantizeImplBase | None:
        """Return the fake-quantizer of a spec, or None without one. Raises as `create_fake_quantizer`."""
        return None if spec is None else cls.create_fake_quantizer(spec, target, shape=shape)

    @staticmethod
    def create_fake_quantizer(
        spec: QuantizationSpec, quantization_target: CompressionTargetTensor | str, *, shape: Sequence[int] = ()
    ) -> FakeQuantizeImplBase:
        """Return the fake-quantizer that a spec names.

        Raises:
            AxisError, BlockSizeError: if the granularity does not fit the shape.
        """
        block = _block(spec, shape)
        return fake_quantizer("", spec, block, is_state=_is_state(quantization_target))

    @staticmethod
    def create_qparams_calculator(
        spec: QuantizationSpec, quantization_target: CompressionTargetTensor | str, *, shape: Sequence[int] = ()
    ) -> QParamsCalculatorBase:
        """Return the calculator of parameters that a spec names. Raises as `create_fake_quantizer`."""
        return calculator_for(spec, _block(spec, shape), is_state=_is_state(quantization_target))

    @staticmethod
    def create_range_calculator(
        spec: QuantizationSpec, quantization_target: CompressionTargetTensor | str = CompressionTargetTensor.WEIGHT
    ) -> RangeCalculatorBase:
        """Return the calculator of ranges that a spec names, which is the same for every role."""
        made: RangeCalculatorBase = RANGE_CALCULATORS.make(spec.range_calculator_cls)
        return made


def _block(spec: QuantizationSpec, shape: Sequence[int]) -> tuple[int, ...]:
    return () if isinstance(spec.granularity, PerTensorGranularity) else spec.granularity.block_shape(tuple(shape))


def _is_state(target: CompressionTargetTensor | str) -> bool:
    return CompressionTargetTensor(target) is not CompressionTargetTensor.ACTIVATION
