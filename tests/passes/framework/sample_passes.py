"""Passes that tests build pipelines of."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

from attrs import field, frozen

from graphpress.ir.dtypes import DType
from graphpress.passes.framework import Fact, Pass, register_pass

FOLDED = Fact("sample-folded", "sample batch norms are folded")


class Mode(Enum):
    FAST = 1
    none = 2
    inf = 3


@frozen
class Nested:
    low: float = 0.0
    names: tuple[str, ...] = ()


class Idle(Pass):
    """Does nothing."""

    name = "sample-idle"

    def run(self, graph: Any, rewriter: Any, context: Any) -> None:
        pass


@register_pass
@frozen
class SampleOptions(Idle):
    """Has an option of every kind."""

    name = "sample-options"
    n_bits: int = 4
    rtol: float = 1e-5
    title: str = "x"
    mode: Mode = Mode.FAST
    maybe: Mode | None = None
    number: int | float | None = None
    flag: bool = False
    names: tuple[str, ...] = ()
    pair: tuple[int, str] = (1, "a")
    kinds: frozenset[str] = frozenset()
    table: dict[str, float | None] = field(factory=dict)
    dtype: DType = DType.INT4
    nested: Nested = Nested()
    word: Literal["a", "b"] = "a"
    anything: Any = None


@register_pass
class SampleFold(Idle):
    """Gives a fact."""

    name = "sample-fold"
    gives = FOLDED


@register_pass
class SampleUse(Idle):
    """Needs it."""

    name = "sample-use"
    needs = FOLDED


@register_pass
class SampleBreak(Idle):
    """Breaks it."""

    name = "sample-break"
    breaks = FOLDED


@register_pass
class SampleIdle(Idle):
    """Does nothing, by name."""

    name = "sample-idle"
