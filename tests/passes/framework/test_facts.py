from __future__ import annotations

import pytest

from graphpress.passes.framework import Fact, FactError, Violation
from graphpress.passes.framework.facts import describe_facts, fact_set
from tests.passes.framework.sample_passes import relu_chain


def each_node(graph):
    return (Violation("must not be there", node) for node in graph.nodes)


def test_facts_are_compared_by_name_alone():
    checked = Fact("folded", "norms are folded", each_node)
    assert checked == Fact("folded")
    assert hash(checked) == hash(Fact("folded"))
    assert checked != Fact("shared", "norms are folded", each_node)
    assert (str(checked), repr(checked)) == ("folded", "Fact(name='folded', description='norms are folded')")


def test_a_violation_says_where_it_is():
    node = relu_chain(1).node("relu")
    assert str(Violation("too many", node)) == "relu (aten.relu, block.relu (Relu) at model.py:11): too many"
    assert str(Violation("too many")) == "too many"


@pytest.mark.parametrize(
    ("count", "shown", "more"), [(1, 1, ""), (3, 3, ""), (4, 3, "and 1 more"), (6, 3, "and 3 more")]
)
def test_a_check_names_the_step_the_fact_and_the_first_places(count, shown, more):
    graph = relu_chain(count)
    fact = Fact("no-nodes", "no node is left", each_node)
    with pytest.raises(FactError) as caught:
        fact.check(graph, "dce#1")
    first, *lines = str(caught.value).splitlines()
    assert first == "dce#1 gives 'no-nodes' (no node is left), but its result does not have it:"
    assert len(lines) == shown + bool(more)
    assert lines[-1].strip() == more or not more
    assert len(fact.violations(graph)) == count


def test_a_fact_that_holds_or_has_no_checker_passes():
    assert Fact("no-nodes", checker=each_node).violations(relu_chain(0)) == []
    assert Fact("unchecked").violations(relu_chain(2)) == []
    Fact("unchecked").check(relu_chain(2), "dce#1")
    with pytest.raises(FactError, match="dce#1 gives 'no-nodes', but its result"):
        Fact("no-nodes", checker=each_node).check(relu_chain(1), "dce#1")


def test_one_fact_and_several_are_a_set():
    one, two = Fact("one"), Fact("two")
    assert fact_set(one) == {one}
    assert fact_set([one, two, one]) == {one, two}
    assert fact_set(()) == frozenset()
    assert describe_facts([two, one]) == "'one', 'two'"
    with pytest.raises(FactError, match="'one' is not a Fact"):
        fact_set(["one"])
