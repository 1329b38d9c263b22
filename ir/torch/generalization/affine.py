"""Affine expressions over batch symbols, and their recovery from sample values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from attrs import field, frozen

from graphpress.ir.errors import GraphpressError
from graphpress.ir.types import Dim, SymDim


class NotProven(GraphpressError):
    """The graph may depend on the example's batch size; the message says why.

    Attributes:
        reads_batch: True if the model reads its batch size, so that it may depend on it.
        at_one: True if the graph was captured at a batch of one, and the model takes other steps at more.
    """

    def __init__(self, message: str, *, reads_batch: bool = False, at_one: bool = False):
        super().__init__(message)
        self.reads_batch = reads_batch
        self.at_one = at_one


class Clash(Exception):
    """Batch sizes that cannot differ: two are equal, or one is constant."""

    def __init__(self, symbols: tuple[str, ...], message: str):
        super().__init__(message)
        self.symbols = symbols


_SPREAD = 1024  # the ratio of a sample batch to the largest number in the model


def _without_zeros(factors: Mapping[str, int]) -> dict[str, int]:
    return {name: factor for name, factor in sorted(factors.items()) if factor}


@frozen
class Affine:
    """An affine expression ``constant + factors[s] * s + ...``."""

    factors: Mapping[str, int] = field(factory=dict, converter=_without_zeros)
    constant: int = 0

    @classmethod
    def of(cls, number: int | Affine) -> Affine:
        """Return a number as an expression."""
        return number if isinstance(number, Affine) else cls({}, number)

    @property
    def is_constant(self) -> bool:
        """True if the expression has no symbols."""
        return not self.factors

    def plus(self, other: Affine, times: int = 1) -> Affine:
        """Return ``self + times * other``."""
        names = self.factors.keys() | other.factors.keys()
        factors = {name: self.factors.get(name, 0) + times * other.factors.get(name, 0) for name in names}
        return Affine(factors, self.constant + times * other.constant)

    def times(self, number: int) -> Affine:
        """Return ``number * self``."""
        return Affine({name: factor * number for name, factor in self.factors.items()}, self.constant * number)

    def divided(self, number: int) -> tuple[Affine, int] | None:
        """Return floor quotient and remainder by `number`, if they are the same expressions for all symbol values.

        Returns None if the remainder depends on the symbols.
        """
        if number == 0 or any(factor % number for factor in self.factors.values()):
            return None
        quotient = {name: factor // number for name, factor in self.factors.items()}
        return Affine(quotient, self.constant // number), self.constant % number

    def at(self, values: Mapping[str, int]) -> int:
        """Evaluate the expression for the given symbol values."""
        return self.constant + sum(factor * values[name] for name, factor in self.factors.items())

    @property
    def bounds(self) -> tuple[float, float]:
        """Return lower and upper bound for symbol values of at least 2; infinite if unbounded."""
        at_two = self.constant + 2 * sum(self.factors.values())
        low = -math.inf if any(factor < 0 for factor in self.factors.values()) else at_two
        high = math.inf if any(factor > 0 for factor in self.factors.values()) else at_two
        return low, high

    def as_dim(self) -> Dim:
        """Convert the expression to an IR dim."""
        if self.is_constant:
            return self.constant
        text = " + ".join(name if factor == 1 else f"{factor}*{name}" for name, factor in self.factors.items())
        if self.constant:
            text += f" {'+' if self.constant > 0 else '-'} {abs(self.constant)}"
        return SymDim(text)


@frozen
class Samples:
    """The batch sizes of the example, and the sample batch sizes of the proof run.

    Sample batch sizes are primes, so that nothing divides them, and so much larger than every number in the model that
    the sum of a multiple of one and a number of the model can be decomposed.

    Attributes:
        example: the batch size of each symbol in the example.
        run_sizes: the batch size of each symbol in the run.
        largest: an upper bound for the numbers in the model.
    """

    example: Mapping[str, int]
    run_sizes: Mapping[str, int]
    largest: int

    @classmethod
    def choose(cls, example: Mapping[str, int], largest: int) -> Samples:
        """Choose sample batch sizes for the symbols of `example`, in a model with numbers up to `largest`."""
        # Their ratio is not one of small multiples.
        starts = (int(_SPREAD * largest * (1 + 0.618034 * place)) for place in range(len(example)))
        run_sizes = {name: _prime_above(start) for name, start in zip(example, starts, strict=True)}
        return cls(dict(example), run_sizes, largest)

    def read(self, number: int) -> Affine | None:
        """Recover the expression of a number of the run, or None if it is ambiguous."""
        if abs(number) <= 2 * self.largest:
            return Affine({}, number)
        found = list(self._readings(number))
        return found[0] if len(found) == 1 else None

    def _readings(self, number: int) -> Iterator[Affine]:
        for name, run_size in self.run_sizes.items():
            factor = (2 * number + run_size) // (2 * run_size)  # rounded
            rest = number - factor * run_size
            if factor and abs(rest) <= 2 * self.largest and abs(factor) < run_size // 4:
                yield Affine({name: factor}, rest)


def _prime_above(number: int) -> int:
    candidate = number + 1 | 1
    while any(candidate % divisor == 0 for divisor in range(3, math.isqrt(candidate) + 1, 2)):
        candidate += 2
    return candidate
