"""The base of every pass."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from attrs import frozen

from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.context import PassContext
from graphpress.passes.framework.effects import EXACT, Effect
from graphpress.passes.framework.facts import Fact, fact_set


@frozen
class Pass(ABC):
    """One rewriting of a whole graph.

    A pass is a frozen attrs class. Its fields are its options; its docstring says what it does and why that is sound.

    Attributes:
        name: in kebab case, unique; made from the class name when not given.
        needs: facts that must hold before.
        gives: facts that hold after; those with a checker are checked on the result.
        breaks: facts that may no longer hold after.
        effect: how far the outputs of the graph may move.
        is_idempotent: whether a second run right after the first changes nothing. Property tests hold passes to it.
    """

    name: ClassVar[str] = "pass"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    breaks: ClassVar[frozenset[Fact]] = frozenset()
    effect: ClassVar[Effect] = EXACT
    is_idempotent: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = kebab_case(cls.__name__)
        for kind in ("needs", "gives", "breaks"):
            declared = cls.__dict__.get(kind)
            if declared is not None and not isinstance(declared, property | frozenset):
                setattr(cls, kind, fact_set(declared))

    @abstractmethod
    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Edit `graph`, through `rewriter` only."""

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().split("\n")[0]

    def __str__(self) -> str:
        from graphpress.passes.framework.pipeline_text import print_pass

        return print_pass(self)


def kebab_case(name: str) -> str:
    """``FoldBatchNorm`` as ``fold-batch-norm``, ``DCE`` as ``dce``, ``Cast16Bit`` as ``cast-16-bit``."""
    return "-".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()
