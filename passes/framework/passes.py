"""The base class of passes, their context and reports."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from attrs import define, field, frozen

from graphpress.ir.graph import Graph, Node
from graphpress.ir.location import UNKNOWN, Location
from graphpress.ir.plain import changed_fields
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.effects import EXACT, Effect
from graphpress.passes.framework.errors import FactError, OptionError, PassRegistrationError
from graphpress.passes.framework.facts import Fact, fact_set
from graphpress.passes.framework.options import write_value


@frozen
class Report:
    """A remark of a pass about a node: what was or was not done, and why.

    Name, op and location are kept, not the node, which a later pass may erase.

    Attributes:
        remark: text, or a record with a text of its own, such as a `SkippedWeight`: see `RunResult.remarks`.
        node_name, op_name, location: of the node; None and unknown where the remark is about the whole graph.
    """

    remark: object
    node_name: str | None = None
    op_name: str | None = None
    location: Location = UNKNOWN

    @property
    def reason(self) -> str:
        """The remark as text."""
        return str(self.remark)

    def __str__(self) -> str:
        return self.reason if self.node_name is None else f"{self.node_name} ({self.location}): {self.reason}"


@define(eq=False)
class PassContext:
    """The context of one step, passed to `Pass.run`.

    Attributes:
        address: the running step, such as ``dce#2``.
        statistics: counters by name.
        reports: remarks, in order.
        node: the node being processed. Passes set it while traversing the graph: exceptions then name the node, and
            edits meanwhile count as one rewrite, so that a bisection never separates them.
    """

    address: str = ""
    statistics: dict[str, int] = field(factory=dict)
    reports: list[Report] = field(factory=list)
    node: Node | None = None

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to the counter `name`."""
        self.statistics[name] = self.statistics.get(name, 0) + amount

    def report(self, node: Node | None, remark: object) -> None:
        """Remark something about `node`, or about the whole graph: in words, or as a record that has words for it."""
        if node is None:
            self.reports.append(Report(remark))
        else:
            self.reports.append(Report(remark, node.name, node.op.name, node.location))


@frozen
class Pass(ABC):
    """A transformation of a whole graph.

    A pass is a frozen attrs class. Its fields are its options; its docstring states what it does and why that is sound.

    Attributes:
        name: in kebab case, unique; by default derived from the class name.
        needs: facts that must hold before.
        gives: facts that hold afterwards; those with a checker are checked on the result.
        breaks: facts that may no longer hold afterwards.
        effect: the tolerated change of the outputs.
        is_idempotent: whether an immediate second run changes nothing, which property tests check.
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
            if declared is not None and not isinstance(declared, property):
                setattr(cls, kind, _declared_facts(cls, kind, declared))
        effect = cls.__dict__.get("effect", EXACT)
        if not isinstance(effect, Effect | property):
            raise PassRegistrationError(_no_effect(cls, effect))

    @abstractmethod
    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Edit `graph`, through `rewriter` only."""

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return (cls.__doc__ or "").strip().split("\n")[0]

    def __str__(self) -> str:
        """Return the text form in pipelines, with the options that differ from their defaults.

        Raises:
            OptionError: if an option's value has no text form.
        """
        options = []
        for name, value in changed_fields(self).items():
            try:
                options.append(f"{name}={write_value(value)}")
            except OptionError as error:
                raise OptionError(f"{self.name}, option {name!r}: {error}") from None
        return f"{self.name}{{{','.join(options)}}}" if options else self.name


def _declared_facts(cls: type[Pass], kind: str, declared: Any) -> frozenset[Fact]:
    """`declared` as a set of facts.

    Raises:
        PassRegistrationError: when it is something else than facts.
    """
    try:
        return fact_set(declared)
    except (FactError, TypeError) as error:
        raise PassRegistrationError(
            f"`{kind}` of {cls.__module__}.{cls.__qualname__} is {declared!r}; it takes a Fact or several, such as "
            "graphpress.passes.analysis.facts.CANONICAL, or a property where they depend on options"
        ) from error


def _no_effect(cls: type[Pass], found: Any) -> str:
    called = f"; write {found.__name__.upper()}()" if isinstance(found, type) and issubclass(found, Effect) else ""
    return (
        f"`effect` of {cls.__module__}.{cls.__qualname__} is {found!r}, which is no Effect{called}; it takes EXACT, "
        "CLOSE(rtol=..., atol=...), LOSSY(bound), or a property where it depends on options"
    )


def kebab_case(name: str) -> str:
    """Convert a class name, such as ``FoldBatchNorm`` to ``fold-batch-norm``, ``DCE`` to ``dce``, ``Cast16Bit`` to
    ``cast-16-bit``.
    """
    return "-".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()
