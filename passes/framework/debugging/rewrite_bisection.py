"""Bisection of a pass to the first rewrite after which the graph is bad."""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher

from attrs import define, field, frozen

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewrite
from graphpress.ir.text.printer import print_graph
from graphpress.passes.framework.failure import place
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.runner import Runner
from graphpress.passes.framework.standard_hooks import Bisect

Check = Callable[[Graph], bool]


@frozen(eq=False)
class BadRewrite:
    """The first bad rewrite of a pass.

    Attributes:
        rewrite: the rewrite: its number, the rule or edit, and its root node.
        total: the number of rewrites of the pass, up to its failure if it fails.
        first: the number of the first rewrite that may be to blame; less than `rewrite.number` only if there is no
            valid graph in between.
        before: the good graph before rewrite `first`.
        after: the bad graph right after `rewrite`; None if the pass fails during it.
    """

    rewrite: Rewrite
    total: int
    first: int
    before: Graph
    after: Graph | None

    def diff(self) -> str:
        """Return the lines of the text form that the rewrite changed, marked with ``-`` and ``+``."""
        return "" if self.after is None else changed_lines(self.before, self.after)

    def __str__(self) -> str:
        numbers = str(self.rewrite.number)
        if self.first < self.rewrite.number:
            numbers = f"{self.first} to {numbers}, which belong together,"
        text = f"rewrite {numbers} of {self.total}: {self.rewrite.title}"
        if self.rewrite.node_name:
            text += place(self.rewrite.node_name, self.rewrite.op_name, self.rewrite.location)
        diff = self.diff()
        return text + "".join(f"\n    {line}" for line in diff.splitlines())


def first_bad_rewrite(graph: Graph, pass_: Pass, is_good: Check | None) -> BadRewrite | None:
    """Find the first rewrite of `pass_` on `graph` after which the graph is bad.

    The pass runs repeatedly from the same graph, with different rewrite limits, as a binary search.

    Args:
        graph: the good graph before the pass; it is not changed.
        pass_: the pass.
        is_good: tests a graph; None if the problem is that the pass fails or leaves an invalid graph.

    Returns:
        None if no rewrite is to blame: the pass makes none, or its result alone is good.
    """
    trials = _Trials(graph, pass_, is_good)
    full = trials.run(None)
    good, bad = 0, full.total
    if not bad or full.is_good is not False or (is_good is None and not trials.run(0).is_good):
        return None
    while bad - good > 1:
        middle = (good + bad) // 2
        for number in sorted(range(good + 1, bad), key=lambda number: abs(number - middle)):
            trial = trials.run(number)
            if trial.is_good is not None:
                break
        else:
            break
        if trial.is_good:
            good = number
        else:
            bad = number
    last = trials.run(bad if bad < full.total else None)
    before = trials.run(good).graph if good else graph
    assert before is not None
    assert last.rewrite is not None
    return BadRewrite(last.rewrite, full.total, good + 1, before, last.graph)


def changed_lines(before: Graph, after: Graph, around: int = 1) -> str:
    """Return the changed lines between two text forms (``-`` old, ``+`` new), with `around` lines of context."""
    old, new = (_lines(graph) for graph in (before, after))
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    head = max(0, start - around)
    tail = max(0, end - around)
    old, new = old[head : len(old) - tail], new[head : len(new) - tail]
    shown: list[str] = []
    for group in SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(around):
        shown += [] if not shown else ["  ..."]
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                shown += [f"  {line}" for line in old[old_from:old_to]]
            else:
                shown += [f"- {line}" for line in old[old_from:old_to]]
                shown += [f"+ {line}" for line in new[new_from:new_to]]
    return "\n".join(shown)


def _lines(graph: Graph) -> list[str]:
    lines = [line.strip() for line in print_graph(graph, locations=False).splitlines()]
    return [line for line in lines if not line.startswith("signature(")]


@frozen(eq=False)
class _Trial:
    """The outcome of a run with a rewrite limit; `is_good` is None if there is no valid graph to test."""

    is_good: bool | None
    graph: Graph | None
    rewrite: Rewrite | None
    total: int


@define(eq=False)
class _Trials:
    graph: Graph
    pass_: Pass
    is_good: Check | None
    known: dict[int | None, _Trial] = field(factory=dict)

    def run(self, limit: int | None) -> _Trial:
        if limit not in self.known:
            self.known[limit] = self._run(limit)
        return self.known[limit]

    def _run(self, limit: int | None) -> _Trial:
        hook = Bisect(1, limit)
        pipeline = Pipeline(self.pass_, assume=self.pass_.needs)
        try:
            graph = Runner([hook]).run(self.graph, pipeline).graph
        except Exception as error:
            if self.is_good is not None and not isinstance(error, GraphpressError):
                raise
            return _Trial(False if self.is_good is None else None, None, hook.last, _count(hook))
        return _Trial(self.is_good is None or self.is_good(graph), graph, hook.last, _count(hook))


def _count(hook: Bisect) -> int:
    return 0 if hook.last is None else hook.last.number
