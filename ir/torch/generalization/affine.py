"""Numbers that are a constant plus whole multiples of symbols, and how they are recognized at sample batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from attrs import field, frozen

from graphpress.ir.errors import GraphpressError
from graphpress.ir.types import Dim, SymDim


class NotProven(GraphpressError):
    """The graph may depend on the batch of the example; the message says by what.

    Attributes:
        asked: True when the model asks for the size of its batch, so that it may.
    """

    def __init__(self, message: str, *, asked: bool = False):
        super().__init__(message)
        self.asked = asked


class Clash(Exception):
    """The model cannot have these batches apart: two must be one, or one is a number."""

    def __init__(self, symbols: tuple[str, ...], message: str):
        super().__init__(message)
        self.symbols = symbols


_SPREAD = 1024  # a stand-in is so many times larger than any number of the model


def _without_zeros(factors: Mapping[str, int]) -> dict[str, int]:
    return {name: factor for name, factor in sorted(factors.items()) if factor}


@frozen
class Affine:
    """``constant + factors[s] * s + ...``"""

    factors: Mapping[str, int] = field(factory=dict, converter=_without_zeros)
    constant: int = 0

    @classmethod
    def of(cls, number: int | Affine) -> Affine:
        """A number as an expression."""
        return number if isinstance(number, Affine) else cls({}, number)

    @property
    def is_constant(self) -> bool:
        """True when no symbol is left."""
        return not self.factors

    def plus(self, other: Affine, times: int = 1) -> Affine:
        """``self + times * other``"""
        names = self.factors.keys() | other.factors.keys()
        factors = {name: self.factors.get(name, 0) + times * other.factors.get(name, 0) for name in names}
        return Affine(factors, self.constant + times * other.constant)

    def times(self, number: int) -> Affine:
        """``number * self``"""
        return Affine({name: factor * number for name, factor in self.factors.items()}, self.constant * number)

    def divided(self, number: int) -> tuple[Affine, int] | None:
        """Floor quotient and remainder by `number`, where they are the same expressions for every value of the symbols.

        None where the remainder depends on the symbols.
        """
        if number == 0 or any(factor % number for factor in self.factors.values()):
            return None
        quotient = {name: factor // number for name, factor in self.factors.items()}
        return Affine(quotient, self.constant // number), self.constant % number

    def at(self, values: Mapping[str, int]) -> int:
        """The number when every symbol has the given value."""
        return self.constant + sum(factor * values[name] for name, factor in self.factors.items())

    @property
    def minimum(self) -> int | None:
        """The smallest value over symbols of 1 and more; None when there is none."""
        if any(factor < 0 for factor in self.factors.values()):
            return None
        return self.constant + sum(self.factors.values())

    def as_dim(self) -> Dim:
        """The expression as the IR writes it."""
        if self.is_constant:
            return self.constant
        text = " + ".join(name if factor == 1 else f"{factor}*{name}" for name, factor in self.factors.items())
        if self.constant:
            text += f" {'+' if self.constant > 0 else '-'} {abs(self.constant)}"
        return SymDim(text)


@frozen
class Samples:
    """The batches that symbols have in the example, and the stand-ins for them in a run.

    Stand-ins are primes, so that nothing divides them, and so much larger than every number of the model that a sum of
    a multiple of one and a number of the model can be taken apart again.

    Attributes:
        example: the batch that each symbol has in the example.
        stand_ins: the batch that each symbol has in the run.
        largest: no number of the model is larger.
    """

    example: Mapping[str, int]
    stand_ins: Mapping[str, int]
    largest: int

    @classmethod
    def choose(cls, example: Mapping[str, int], largest: int) -> Samples:
        """Stand-ins for the symbols of `example`, in a model whose numbers are at most `largest`."""
        # Apart by a ratio that no two small multiples share.
        starts = (int(_SPREAD * largest * (1 + 0.618034 * place)) for place in range(len(example)))
        stand_ins = {name: _prime_above(start) for name, start in zip(example, starts, strict=True)}
        return cls(dict(example), stand_ins, largest)

    def read(self, number: int) -> Affine | None:
        """What a number of the run is as an expression; None when that is not clear."""
        if abs(number) <= 2 * self.largest:
            return Affine({}, number)
        found = list(self._readings(number))
        return found[0] if len(found) == 1 else None

    def _readings(self, number: int) -> Iterator[Affine]:
        for name, stand_in in self.stand_ins.items():
            factor = (2 * number + stand_in) // (2 * stand_in)  # rounded
            rest = number - factor * stand_in
            if factor and abs(rest) <= 2 * self.largest and abs(factor) < stand_in // 4:
                yield Affine({name: factor}, rest)


def _prime_above(number: int) -> int:
    candidate = number + 1 | 1
    while any(candidate % divisor == 0 for divisor in range(3, math.isqrt(candidate) + 1, 2)):
        candidate += 2
    return candidate
