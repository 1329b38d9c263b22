"""The greedy driver, which applies rules until none matches."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from attrs import define, field

from graphpress.ir.graph import Constant, Graph, Node, Output, UseKey, Value
from graphpress.ir.location import Location
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.attempt import Misfits
from graphpress.passes.framework.errors import BudgetExceeded, PatternError
from graphpress.passes.framework.match import Match, Miss
from graphpress.passes.framework.passes import PassContext
from graphpress.passes.framework.rule_index import RuleIndex
from graphpress.passes.framework.rules import Replacement, Rule

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

    Nodes are visited in execution order, and again after changes near them. At one node the first rule that matches
    wins. `context` counts the rewrites of each rule. Without matches, the time is linear in the number of nodes.

    Args:
        rules: in order of preference.
        graph: the graph to rewrite.
        rewriter: its rewriter.
        context: the context of the running pass.
        budget: maximum number of rewrites; by default 20 for each node of the graph and 100 more.

    Raises:
        BudgetExceeded: if exceeded; the message names the cycling rules and the last rewrites.
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
    queued: set[Node] = field(factory=set)
    misfits: Misfits = field(factory=set)
    seen: dict[Node, None] = field(factory=dict)  # all nodes ever queued, in order
    recent: deque[tuple[str, str, Location]] = field(factory=lambda: deque(maxlen=_RECENT))
    count: int = 0

    def run(self) -> int:
        """Sweep over the possible roots until nothing changes.

        The worklist alone misses roots whose checks read distant nodes. `seen` includes nodes added later, which were
        queued when added.
        """
        self.index.follow(self.graph)
        before, sweep = -1, list(self.graph.nodes_of(self.index.__getitem__))
        while before != self.count:
            before = self.count
            self.enqueue(sweep)
            self.drain()
            sweep = list(self.seen)
        return self.count

    def drain(self) -> None:
        queue, queued, graph, context = self.queue, self.queued, self.graph, self.context
        while queue:
            node = queue.popleft()
            queued.discard(node)
            if node.graph is not graph:
                continue
            for candidate in self.index.at(node):
                if candidate.is_conditional and not candidate.may_match(node):
                    continue
                if node.is_dead:
                    break
                context.node = node
                found = candidate.rule.find(node, self.misfits)
                if found is not None and self.rewrite(candidate.rule, found):
                    break
        context.node = None

    def rewrite(self, rule: Rule, match: Match) -> bool:
        """Apply `rule`; return False if it declined or changed nothing."""
        root, rewriter = match.root, self.rewriter
        edits = rewriter.edits.total
        nearby = _values_read(match.nodes)
        read_before: list[UseKey] = []
        for result in root.results:
            read_before += result._uses
        place = (rule.name, root.name, root.location)
        self.touched.clear()
        rewriter.begin(rule.name, root)
        outcome = rule.rewrite(match, rewriter)
        has_edited = rewriter.edits.total != edits
        if isinstance(outcome, Miss):
            if has_edited:
                name, where, location = place
                raise PatternError(
                    f"rule {name!r} declined at {where} ({location}) after it had edited the graph: {outcome}"
                )
            return False
        if outcome is not None:
            self.install(rule, match, outcome, _new_readers(root, read_before) if has_edited else set())
            has_edited = has_edited or rewriter.edits.total != edits
        if not has_edited:
            return False
        self.misfits.clear()
        self.index.refresh(self.touched)
        self.erase_unread_constants(nearby)
        self.count += 1
        self.context.count(rule.name)
        self.recent.append(place)
        if self.count > self.budget:
            raise BudgetExceeded(self.complaint())
        self.enqueue_around(root, nearby)
        return True

    def install(self, rule: Rule, match: Match, outcome: Replacement, wrappers: set[Node | Output]) -> None:
        """Replace the results of the root by `outcome`, but for its readers among `wrappers`; a new node gets the name
        of the root.
        """
        root, rewriter = match.root, self.rewriter
        values = (
            (outcome,)
            if isinstance(outcome, Value)
            else outcome.results
            if isinstance(outcome, Node)
            else tuple(outcome)
        )
        if len(values) != len(root.results):
            raise PatternError(
                f"rule {rule.name!r} returned {len(values)} values for the {len(root.results)} results of {root.name}"
            )
        if not wrappers:
            first = values[0].producer if rewriter.made and values else None
            is_new = first is not None and any(first is node for node in rewriter.made)
            rewriter.replace(match.nodes, values)
            if is_new and root.graph is None:
                assert isinstance(first, Node)
                rewriter.rename(first, root.name)
            return
        for result, value in zip(root.results, values, strict=True):
            rewriter.replace_uses(result, value, where=lambda use: use.user not in wrappers)

    def erase_unread_constants(self, nearby: Iterable[Value]) -> None:
        """Erase constants that only the matched nodes read."""
        for value in nearby:
            constant = value.producer
            if (
                isinstance(constant, Constant)
                and not value._uses
                and self.graph.constants.get(constant.name) is constant
            ):
                self.rewriter.erase_constant(constant)

    def enqueue(self, nodes: Iterable[Node]) -> None:
        """Queue those of `nodes` that may be the root of a rule."""
        for node in nodes:
            if node not in self.queued and self.index[node.op]:
                self.append(node)

    def enqueue_around(self, root: Node, nearby: Iterable[Value]) -> None:
        """Queue the possible roots near a rewrite of `root`.

        These are the changed nodes, their readers up to the depth of the patterns, and the readers of
        those operands of the matched nodes that have few readers left.
        """
        graph, queued, reach = self.graph, self.queued, self.index.reach
        wave: dict[Node, None] = {}
        for node in self.touched:
            if node.graph is graph:
                wave[node] = None
        for value in nearby:
            if len(value._uses) <= _FEW_READERS:
                for user, _, _ in value._uses:
                    if isinstance(user, Node):
                        wave[user] = None
        if root.graph is graph:
            wave[root] = None
        last = self.index.depth - 1
        for distance in range(last):
            following: dict[Node, None] = {}
            for node in wave:
                if node not in queued and reach[node.op] > distance:
                    self.append(node)
                for result in node.results:
                    for user, _, _ in result._uses:
                        # What is near a queued node was queued with it.
                        if user not in queued and isinstance(user, Node):
                            following[user] = None
            wave = following
        for node in wave:
            if node not in queued and reach[node.op] > last:
                self.append(node)

    def append(self, node: Node) -> None:
        """Queue `node`, which is not queued."""
        self.queued.add(node)
        self.queue.append(node)
        self.seen[node] = None

    def complaint(self) -> str:
        names = Counter(name for name, _, _ in self.recent)
        cycling = ", ".join(f"{name!r}" for name, _ in names.most_common())
        last = "\n".join(f"  {name} at {where} ({location})" for name, where, location in list(self.recent)[-8:])
        return (
            f"the rules do not terminate: {self.count} rewrites, the budget is {self.budget} for "
            f"{len(self.graph.nodes)} nodes; cycling: {cycling}; the last rewrites:\n{last}"
        )


def _values_read(nodes: Iterable[Node]) -> dict[Value, None]:
    values: dict[Value, None] = {}
    for node in nodes:
        for operand in node.operands.values():
            if isinstance(operand, Value):
                values[operand] = None
            elif isinstance(operand, tuple):
                values.update(dict.fromkeys([value for value in operand if isinstance(value, Value)]))
    return values


def _new_readers(root: Node, before: Iterable[UseKey]) -> set[Node | Output]:
    """The readers of the results of `root` that were none `before`: they wrap the root."""
    known = {user for user, _, _ in before}
    return {user for result in root.results for user, _, _ in result._uses} - known
