"""Compiled patterns against the search, and both against an enumeration of all ways to match."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.graph import Node, Value
from graphpress.ir.ops import Trait
from graphpress.passes.framework import Match
from graphpress.passes.framework.compiled import CompiledPattern
from graphpress.passes.framework.matcher import match_pattern
from graphpress.passes.framework.patterns import Any, Each, OneOf, Op, Optional, as_pattern
from graphpress.passes.framework.testing import GraphBuilder

BINARY = ("aten.add.Tensor", "aten.sub.Tensor")
UNARY = ("aten.relu", "aten.tanh")


@st.composite
def graphs(draw):
    """A small graph of sums, differences and activations, each of which may be returned."""
    b = GraphBuilder()
    values = [b.input("x"), b.input("y")]
    for _ in range(draw(st.integers(2, 7))):
        op = draw(st.sampled_from((*BINARY, *UNARY)))
        read = [draw(st.sampled_from(values[-4:])) for _ in range(2 if op in BINARY else 1)]
        values.append(b.op(op, *read))
    return b.outputs(values[-1], *draw(st.lists(st.sampled_from(values[2:]), max_size=2)))


def anything():
    return st.sampled_from((None, "a", "b", "c", "d")).map(Any)


@st.composite
def ops(draw, inner):
    op = draw(st.sampled_from((*BINARY, *UNARY)))
    parts = [draw(inner) for _ in range(2 if op in BINARY else 1)]
    pattern = Op(
        op, *parts, name=draw(st.sampled_from((None, None, "p", "q"))), single_use=draw(st.integers(0, 5)) == 0
    )
    if draw(st.integers(0, 4)) == 0:
        pattern = pattern.where(lambda node: len(node.name) % 2 == 0, "a name of even length")
    return pattern


def inner_patterns():
    return st.recursive(
        anything(),
        lambda inner: st.one_of(
            anything(),
            ops(inner),
            ops(inner),
            ops(inner),
            st.builds(Optional, inner),
            st.lists(inner, min_size=2, max_size=2).map(lambda some: OneOf(*some)),
        ),
        max_leaves=6,
    )


def patterns():
    root = ops(inner_patterns())
    return st.one_of(root, root, st.lists(root, min_size=2, max_size=2).map(lambda some: OneOf(*some)))


def all_ways(pattern, subject, made):
    """Yield every way to match, as captures in order and nodes; `made` is the way so far."""
    captures, nodes, limits = made
    if isinstance(pattern, OneOf):
        for one in pattern.alternatives:
            yield from all_ways(one, subject, made)
    elif isinstance(pattern, Optional):
        yield from all_ways(pattern.pattern, subject, made)  # no operand of these ops is absent
    elif isinstance(pattern, Any):
        if isinstance(subject, Value):
            yield from captured(pattern.name, subject, made)
    else:
        node = subject if isinstance(subject, Node) else subject.node
        if node is None or not pattern.accepts(node.op):
            return
        read = list(node.operands.values())
        orders = itertools.permutations(read) if node.op.has(Trait.COMMUTATIVE) else [read]
        for order in orders:
            ways = [made]
            for part, operand in zip(pattern.positional, order, strict=True):
                ways = [longer for way in ways for longer in all_ways(part, operand, way)]
            for captures, nodes, limits in ways:
                limited = limits | {node} if pattern.single_use and isinstance(subject, Value) else limits
                if all(test.predicate(node) for test in pattern.tests):
                    yield from captured(pattern.name, node, (captures, nodes | {node}, limited))


def captured(name, subject, made):
    captures, nodes, limits = made
    if name is None:
        yield made
    elif captures.get(name, subject) is subject:
        yield {**captures, name: subject}, nodes, limits


def complete_ways(pattern, node):
    for captures, nodes, limits in all_ways(pattern, node, ({}, frozenset(), frozenset())):
        if all(use.user in nodes for limited in limits for result in limited.results for use in result.uses):
            yield captures, nodes


@settings(max_examples=400, deadline=None)
@given(graphs(), patterns())
def test_search_and_compiled_pattern_find_one_of_all_ways_to_match(graph, pattern):
    compiled, misfits = CompiledPattern(pattern), set()
    for node in graph.nodes:
        ways = list(complete_ways(pattern, node))
        searched, found = match_pattern(pattern, node), compiled.find(node, misfits)
        assert (found is not None) == isinstance(searched, Match) == bool(ways)
        if found is None:
            continue
        assert (found.nodes, found.captures, found.paths) == (searched.nodes, searched.captures, searched.paths)
        taken = {name: value for name, value in found.captures.items() if value is not None}
        assert (taken, frozenset(found.nodes)) in ways
        assert found.root is found.nodes[-1] is node


@pytest.mark.parametrize(
    "leaf",
    [Op("aten.tanh", Any("x")), Op("aten.add.Tensor", Any("x"), Any("z")).where(lambda node: False, "never")],
    ids=["an op that is not there", "a test that fails"],
)
def test_a_commutative_pattern_that_misses_tries_each_node_once(leaf):
    b = GraphBuilder()
    asked = []
    before, last = b.input("x"), b.input("y")
    for _ in range(40):
        before, last = last, b.aten.add.Tensor(last, before)
    b.outputs(last)
    pattern = leaf
    for level in range(15):
        test = (level, asked)
        pattern = Op("aten.add.Tensor", pattern, Any().where(lambda value, test=test: test[1].append(test[0]), "no"))
    assert CompiledPattern(pattern).find(last.node, set()) is None
    assert len(asked) < 2 * 15 * 16


def test_a_choice_is_taken_back_when_what_follows_does_not_fit():
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    sums = [b.aten.sub.Tensor(b.aten.add.Tensor(x, y), read) for read in (y, x)]
    b.outputs(*sums)
    compiled = CompiledPattern(Op("aten.sub.Tensor", Op("aten.add.Tensor", Any("a"), Any("b")), Any("a")))
    found = [compiled.find(value.node, set()) for value in sums]
    assert [(match["a"], match["b"]) for match in found] == [(y, x), (x, y)]


def test_an_operand_order_is_taken_back_when_another_node_reads_what_it_took():
    b = GraphBuilder()
    x = b.input("x")
    shared, own = b.aten.relu(x), b.aten.relu(x)
    total = b.aten.tanh(b.aten.add.Tensor(shared, own))
    b.outputs(total, shared)
    relu = Op("aten.relu", Any("x"), name="relu", single_use=True)
    found = CompiledPattern(Op("aten.tanh", Op("aten.add.Tensor", relu, Any("y")))).find(total.node, set())
    assert (found["relu"], found["y"]) == (own.node, shared)


@st.composite
def concats(draw):
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    values = [x, y, b.aten.relu(x), b.aten.add.Tensor(x, y), b.aten.add.Tensor(y, b.aten.relu(y))]
    joined = b.op("aten.cat", tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))))
    return b.outputs(b.aten.tanh(joined)), joined.node


@settings(max_examples=200, deadline=None)
@given(concats(), inner_patterns(), anything())
def test_search_and_compiled_pattern_agree_on_the_items_of_a_list(graph_and_concat, item, rest):
    _, concat = graph_and_concat
    pattern = Op("aten.tanh", Op("aten.cat", Each(item, "items", minimum=2), single_use=True) | rest)
    reader = concat.result.users[0]
    searched, found = match_pattern(pattern, reader), CompiledPattern(pattern).find(reader, set())
    assert isinstance(searched, Match) == (found is not None)
    if found is not None:
        assert (found.nodes, found.captures, found.paths) == (searched.nodes, searched.captures, searched.paths)


@pytest.mark.parametrize(("name", "needs_search"), [("b", False), ("a", True)])
def test_only_a_capture_that_items_share_with_other_parts_needs_a_search(name, needs_search):
    pattern = Op("aten.add.Tensor", Op("aten.cat", Each(Any("a"), "parts")), Any(name))
    assert CompiledPattern(pattern).needs_search == needs_search


def test_tests_of_a_result_and_of_a_list_count():
    b = GraphBuilder()
    x = b.input("x")
    relu = b.op("aten.relu", b.node("aten.split.Tensor", x, 1).results[1])
    joined = b.op("aten.cat", (relu, x))
    b.outputs(joined)
    for is_met in (True, False):
        test = (lambda subject, is_met=is_met: is_met, "the test")
        for pattern, node in (
            (Op("aten.relu", Op("aten.split", ...).result(1).where(*test)), relu.node),
            (Op("aten.cat", as_pattern([Any("a"), Any("b")]).where(*test)), joined.node),
            (Op("aten.cat", ..., dim=as_pattern(0).where(*test)), joined.node),
        ):
            assert isinstance(match_pattern(pattern, node), Match) == is_met
            assert (CompiledPattern(pattern).find(node, set()) is not None) == is_met
