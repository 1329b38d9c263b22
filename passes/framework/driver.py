"""The greedy driver: applies rules until none matches."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from attrs import astuple, define, field

from graphpress.ir.graph import Graph, Node, Output, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.errors import BudgetExceeded, PatternError
from graphpress.passes.framework.match import Match, Miss
from graphpress.passes.framework.passes import PassContext
from graphpress.passes.framework.rules import Replacement, Rule, RuleIndex

_REWRITES_PER_NODE = 20
_REWRITES_AT_LEAST = 100
_RECENT = 24
_FEW_READERS = 4


def apply_rules(
    rules: Sequence[Rule],
    graph: Graph,
    rewriter: Rewriter,
    context: PassContext | None = None,
    *,
    budget: int | None = None,
) -> int:
    """Apply `rules` to `graph` until none matches; return the number of rewrites.

    Nodes are visited in execution order, then again when something near them changed. At one node the first rule that
    matches wins. `context` counts the rewrites of each rule. A graph without matches costs time linear in its nodes.

    Args:
        rules: in order of preference.
        graph: the graph to rewrite.
        rewriter: its rewriter.
        context: the context of the running pass.
        budget: how many rewrites are too many; 20 for each node of the graph and 100 more if not given.

    Raises:
        BudgetExceeded: naming the rules that cycle, with the last rewrites.
    """
    if budget is None:
        budget = _REWRITES_PER_NODE * len(graph.nodes) + _REWRITES_AT_LEAST
    driver = _Driver(RuleIndex(rules), graph, rewriter, context or PassContext(), budget)
    outer, rewriter.listener = rewriter.listener, driver.touched.append
    try:
        return driver.run()
    finally:
        rewriter.listener = outer
        rewriter.rewrites.end()


@define(eq=False)
class _Driver:
    index: RuleIndex
    graph: Graph
    rewriter: Rewriter
    context: PassContext
    budget: int
    touched: list[Node] = field(factory=list)
    queue: deque[Node] = field(factory=deque)
    queued: set[int] = field(factory=set)
    recent: deque[tuple[str, str]] = field(factory=lambda: deque(maxlen=_RECENT))
    count: int = 0

    def run(self) -> int:
        """Sweep over the nodes that a rule may start at until nothing changes: the worklist misses what rules read from
        afar."""
        before = -1
        while before != self.count:
            before = self.count
            self.enqueue(self.graph.nodes_of(self.index.rules_at))
            self.drain()
        return self.count

    def drain(self) -> None:
        while self.queue:
            node = self.queue.popleft()
            self.queued.discard(id(node))
            if node.graph is not self.graph or node.is_dead:
                continue
            for rule in self.index.candidates(node):
                self.context.node = node
                found = rule.match(node)
                if isinstance(found, Match) and self.rewrite(rule, found):
                    break
        self.context.node = None

    def rewrite(self, rule: Rule, match: Match) -> bool:
        """Apply `rule`; False when it declined or changed nothing."""
        root, edits = match.root, astuple(self.rewriter.edits)
        nearby = [value for node in match.nodes for _, _, value in node.operand_values()]
        had_read = [use.user for result in root.results for use in result.uses]
        where = f"{root.name} ({root.location})"
        self.touched.clear()
        self.rewriter._pending.clear()  # what an earlier rule made without `replace` must not get this one's location
        self.rewriter.rewrites.begin(rule.name, root)
        outcome = rule.rewrite(match, self.rewriter)
        if isinstance(outcome, Miss):
            if astuple(self.rewriter.edits) != edits:
                raise PatternError(f"rule {rule.name!r} declined at {where} after it had edited the graph: {outcome}")
            return False
        if outcome is not None:
            self.install(rule, match, outcome, had_read)
        if astuple(self.rewriter.edits) == edits:
            return False
        self.erase_unread_constants(nearby)
        self.count += 1
        self.context.count(rule.name)
        self.recent.append((rule.name, where))
        if self.count > self.budget:
            raise BudgetExceeded(self.complaint())
        self.enqueue_around(match, nearby)
        return True

    def install(self, rule: Rule, match: Match, outcome: Replacement, had_read: list[Node | Output]) -> None:
        """Let `outcome` stand for the results of the root."""
        root = match.root
        values = (
            [outcome] if isinstance(outcome, Value) else list(outcome.results if isinstance(outcome, Node) else outcome)
        )
        if len(values) != len(root.results):
            raise PatternError(
                f"rule {rule.name!r} returned {len(values)} values for the {len(root.results)} results of {root.name}"
            )
        wrappers = {id(use.user) for result in root.results for use in result.uses} - set(map(id, had_read))
        if not wrappers:
            self.rewriter.replace(match.nodes, values)
            return
        for result, value in zip(root.results, values, strict=True):
            self.rewriter.replace_uses(result, value, where=lambda use: id(use.user) not in wrappers)

    def erase_unread_constants(self, nearby: list[Value]) -> None:
        """Forget the constants that only the matched nodes read: a valid graph has no dangling ones."""
        for value in nearby:
            constant = value.constant
            if constant is not None and not value.use_count and self.graph.constants.get(constant.name) is constant:
                self.rewriter.erase_constant(constant)

    def enqueue(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if id(node) not in self.queued:
                self.queued.add(id(node))
                self.queue.append(node)

    def enqueue_around(self, match: Match, nearby: list[Value]) -> None:
        """What may match now: nodes that changed, their readers as far as a pattern reaches, and the few that are left
        as readers of something the matched nodes read."""
        wave = [node for node in self.touched if node.graph is self.graph]
        wave += [user for value in nearby if value.use_count <= _FEW_READERS for user in value.users]
        if match.root.graph is self.graph:
            wave.append(match.root)
        for _ in range(self.index.depth):
            self.enqueue(wave)
            results = [result for node in wave for result in node.results]
            wave = [user for result in results for user in result.users if id(user) not in self.queued]

    def complaint(self) -> str:
        names = Counter(name for name, _ in self.recent)
        cycling = ", ".join(f"{name!r}" for name, _ in names.most_common())
        last = "\n".join(f"  {name} at {where}" for name, where in list(self.recent)[-8:])
        return (
            f"the rules do not settle: {self.count} rewrites, the budget is {self.budget} for {len(self.graph.nodes)} "
            f"nodes; cycling: {cycling}; the last rewrites:\n{last}"
        )
