"""Range calculators: from one observed tensor to the range its quantizer should cover."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from graphpress.ir.reference import block_range
from graphpress.passes.specs import RANGE_CALCULATORS

C = TypeVar("C", bound=type)


class RangeCalculatorBase(ABC):
    """Base of range calculators. Register one with ``@RangeCalculatorBase.register("key")`` and name it in a spec."""

    @staticmethod
    def register(key: str) -> Callable[[C], C]:
        """Class decorator: make the class available to specs as `key`."""
        return RANGE_CALCULATORS.register(key)

    @abstractmethod
    def __call__(self, data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the range of each block of `data`.

        Args:
            data: any floating dtype and shape.
            block_size: the extent of a block along each axis (-1: the whole axis); empty for one block.

        Returns:
            two float32 tensors with one element per block, 0-d for one block.
        """


@RangeCalculatorBase.register("minmax")
class MinMaxRangeCalculator(RangeCalculatorBase):
    """The least and greatest element."""

    def __call__(self, data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See the base class."""
        return block_range(data, block_size)

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other)

    __hash__ = object.__hash__
