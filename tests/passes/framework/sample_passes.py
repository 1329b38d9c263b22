"""Passes that tests build pipelines of, and a graph to run them on."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

from attrs import field, frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph
from graphpress.passes.framework import Fact, Pass, register_pass
from graphpress.passes.framework.testing import GraphBuilder

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


def relu_chain(length: int) -> Graph:
    """`length` times relu."""
    build = GraphBuilder()
    value = build.input()
    for _ in range(length):
        value = build.aten.relu(value)
    return build.outputs(value)
