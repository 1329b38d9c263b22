"""Graphs that are nested deeper than Python's stack."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from graphpress.ir import difference, load_graph, save_graph, to_graph_module
from graphpress.ir.calling import MOST_NESTED_CALLS
from graphpress.ir.diff import diff_graphs
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, GraphError, nested_graphs
from graphpress.ir.ops import lookup_op
from graphpress.ir.text.attributes import MOST_NESTED_VALUES, TextFormError
from graphpress.ir.text.parser import ParseError, parse_graph
from graphpress.ir.text.printer import MOST_NESTED, exact_text, print_graph
from graphpress.ir.torch.body_reader import BodyReader
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import VerificationError, verify
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.debugging.reproduction import Case, Failure

VECTOR, FLAG = TensorType(DType.FLOAT32, (2,)), TensorType(DType.BOOL, ())


def _body(name: str, inner: Graph | None = None) -> Graph:
    """Two equal sums, of which a condition over `inner` reads one, and a result."""
    graph = Graph(name)
    x = graph.add_input("x", VECTOR).value
    w = graph.add_constant("w", torch.ones(2)).value
    add = lookup_op("aten.add.Tensor")
    result, twin = (graph.insert(add, {"self": x, "other": w}, {}, [VECTOR]).result for _ in range(2))
    if inner is not None:
        flag = graph.add_constant("flag", torch.tensor(True), "literal").value
        attributes = {"arg1": inner, "arg2": _body("leaf")}
        result = graph.insert(lookup_op("hop.cond"), {"arg0": flag, "arg3": (twin,)}, attributes, [VECTOR]).result
    graph.add_output(graph.insert(lookup_op("aten.relu"), {"self": result}, {}, [VECTOR]).result)
    return graph


def _nested(levels: int) -> Graph:
    graph = _body("g0")
    for depth in range(1, levels + 1):
        graph = _body(f"g{depth}", graph)
    return graph


def _innermost(graph: Graph) -> Graph:
    return next(each for each in nested_graphs(graph) if each.name == "g0")


def _at_depth(frames: int, work: Callable[[], object]) -> object:
    """Do `work` below as many frames, as a notebook or a test runner has them."""
    return work() if not frames else _at_depth(frames - 1, work)


def test_deeply_nested_graphs_are_walked_and_cloned():
    graph = _nested(400)
    for made in (graph.clone(), copy.deepcopy(graph)):
        names = [each.name for each in nested_graphs(made) if each.name != "leaf"]
        assert names == [f"g{depth}" for depth in range(400, -1, -1)]
        assert not {id(each) for each in nested_graphs(made)} & {id(each) for each in nested_graphs(graph)}


def test_deeply_nested_graphs_are_compared_to_the_innermost_node():
    graph, other = _nested(400), _nested(400)
    assert difference(graph, other) is None
    assert graph == other
    assert diff_graphs(graph, other).is_empty
    next(iter(_innermost(other).nodes)).attributes["alpha"] = 2
    found = difference(graph, other)
    assert found.startswith("inside attribute of node 2 (cond), arg1,: inside attribute of node 2 (cond), arg1,: ")
    assert found.endswith("only the second graph has attribute of node 0 (add) 'alpha'")
    assert found.count("inside ") == 400
    assert [change.before.name for change in diff_graphs(graph, other).changed] == ["cond"]


def test_graphs_in_lists_and_dictionaries_are_compared():
    def holding(inner: Graph) -> Graph:
        graph = Graph("outer")
        graph.insert(lookup_op("hop.cond"), {}, {"arg1": ({"a": [inner]},)}, [])
        return graph

    assert difference(holding(_body("a")), holding(_body("a"))) is None
    assert difference(holding(_body("a")), holding(_body("b"))) == (
        "inside attribute of node 0 (cond), arg1,: the graph's name is 'a' in the first graph, 'b' in the second"
    )


def test_deeply_nested_graphs_are_verified_to_the_innermost_node():
    graph = _nested(400)
    _at_depth(300, lambda: verify(graph))
    next(iter(_innermost(graph).nodes)).attributes["beta"] = 2
    with pytest.raises(VerificationError) as caught:
        verify(graph)
    message = str(caught.value)
    assert message.startswith("cond (hop.cond), from <unknown>: in its body 'g399': 396 bodies deeper, cond")
    assert message.endswith(
        "in its body 'g0': add (aten.add.Tensor), from <unknown>: aten.add.Tensor has no parameter 'beta'"
    )
    assert message.count("in its body") == 4


def test_deeply_nested_graphs_are_printed_parsed_and_stored(tmp_path: Path):
    graph = _nested(100)

    def round_trips() -> None:
        text = exact_text(graph)
        assert text.count("graph @") == 201
        assert exact_text(parse_graph(text)) == text
        save_graph(graph, tmp_path / "m.gir")
        assert load_graph(tmp_path / "m.gir") == graph
        assert pickle.loads(pickle.dumps(graph)) == graph

    _at_depth(300, round_trips)


def test_passes_run_over_deeply_nested_graphs(tmp_path: Path):
    graph = _nested(100)
    result = _at_depth(300, lambda: Runner().run(graph, Pipeline.parse("cse,dce,fold-constants,canonicalize")))
    assert [record.removed for record in result.records] == [1, 0, 0, 0]
    assert len(list(nested_graphs(result.graph))) == 201
    Bundle.of(Case(graph, Pipeline.parse("cse"), None), Failure("PassFailed", message="no")).save(tmp_path / "b")
    assert Bundle.load(tmp_path / "b").case().graph == graph


def test_the_text_form_holds_so_many_levels_and_no_more(tmp_path: Path):
    deepest, deeper = (Graph("g") for _ in range(2))
    for graph, levels in ((deepest, MOST_NESTED), (deeper, MOST_NESTED + 1)):
        inner = Graph("g")
        for _ in range(levels - 1):
            outer = Graph("g")
            outer.insert(lookup_op("hop.cond"), {}, {"arg1": inner}, [])
            inner = outer
        graph.insert(lookup_op("hop.cond"), {}, {"arg1": inner}, [])
    text = exact_text(deepest)
    assert exact_text(parse_graph(text)) == text
    for write in (exact_text, pickle.dumps, lambda graph: save_graph(graph, tmp_path / "m.gir")):
        with pytest.raises(TextFormError, match=f"nested too deeply to be stored; accepted: {MOST_NESTED} levels"):
            write(deeper)
    assert print_graph(deeper).count('object("<graph g: 0 nodes>")') == 1
    one_more = text.replace("graph @g {", "graph @g { %a: f32[] = hop.cond() {arg1=graph @g {", 1)
    with pytest.raises(ParseError, match=f"graphs are nested too deeply; accepted: {MOST_NESTED} levels"):
        parse_graph(one_more)


@pytest.mark.parametrize(
    "text", ["graph @a { %a: f32[] = hop.cond() {b=", "graph\n// no\n@a { %a: f32[] = hop.cond() {b="]
)
def test_graphs_that_do_not_end_are_refused(text: str):
    with pytest.raises(ParseError, match="nested too deeply"):
        parse_graph(text * 3000)


def test_a_graph_in_a_string_or_a_comment_is_no_graph():
    text = 'graph @main {\n  // graph @a { {\n  input %"graph @b {" = "graph @c {"\n  return none\n}\n'
    assert [each.name for each in parse_graph(text).inputs] == ["graph @b {"]


def test_a_graph_is_an_attribute_and_no_operand():
    with pytest.raises(ParseError, match="a graph can be an attribute, not an operand"):
        parse_graph("graph @main { %a: f32[] = hop.cond(arg1=graph @b { return none }) return %a }")


def test_values_nest_so_many_levels_and_no_more():
    def holding(levels: int) -> Graph:
        value = ()
        for _ in range(levels - 1):
            value = (value,)
        graph = Graph()
        graph.insert(lookup_op("hop.cond"), {}, {"arg1": value}, [])
        return graph

    text = exact_text(holding(MOST_NESTED_VALUES))
    assert exact_text(parse_graph(text)) == text
    with pytest.raises(TextFormError, match="a value is nested too deeply"):
        exact_text(holding(MOST_NESTED_VALUES + 1))
    with pytest.raises(ParseError, match="values are nested too deeply"):
        parse_graph(text.replace("[[", "[[[").replace("]]", "]]]"))


def test_graphs_for_torch_nest_so_many_levels_and_no_more():
    module = to_graph_module(_nested(MOST_NESTED_CALLS))
    assert sum(isinstance(each, fx.GraphModule) for each in module.modules()) == 2 * MOST_NESTED_CALLS + 1
    with pytest.raises(GraphError, match=f"nested too deeply for torch; accepted: {MOST_NESTED_CALLS} levels"):
        to_graph_module(_nested(MOST_NESTED_CALLS + 1))


def test_bodies_from_torch_nest_so_many_levels_and_no_more():
    def body(inner: fx.GraphModule | None) -> fx.GraphModule:
        graph, root = fx.Graph(), nn.Module()
        if inner is not None:
            root.inner = inner
        graph.output((graph.get_attr("inner"),) if inner is not None else ())
        return fx.GraphModule(root, graph)

    module = None
    for _ in range(MOST_NESTED_CALLS + 2):
        module = body(module)
    with pytest.raises(GraphError, match=f"nested too deeply for torch; accepted: {MOST_NESTED_CALLS} levels"):
        BodyReader(Graph(), module, {}, allow_writes=True).read(module.graph.nodes)


def test_what_is_nested_uses_no_more_of_the_stack():
    graph = _nested(100)
    text = exact_text(graph)
    limit = sys.getrecursionlimit()
    frames = _depth()
    sys.setrecursionlimit(frames + 130)
    try:
        assert parse_graph(text) is not None
        assert exact_text(graph) == text
        assert graph == graph.clone()
        verify(graph)
    finally:
        sys.setrecursionlimit(limit)


def _depth() -> int:
    frame, count = sys._getframe(), 0
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count
