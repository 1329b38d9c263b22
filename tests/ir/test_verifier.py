from __future__ import annotations

import pytest
import torch

from graphpress.ir import VerificationError, from_module, verify
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph
from graphpress.ir.location import Location, ModuleScope, Origin
from graphpress.ir.ops import lookup_op
from graphpress.ir.types import ScalarType, SymDim, TensorType
from graphpress.passes.framework.testing import GraphBuilder
from tests.ir.zoo import ZOO, captured

torch.set_num_threads(1)
F32 = TensorType(DType.FLOAT32, (2, 4))
WHERE = Location((Origin((ModuleScope("", "Model"), ModuleScope("block.act", "torch.nn.ReLU")), "model.py", 12),))


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_imported_model_is_valid(name):
    verify(captured(name))
    verify(captured(name).clone())


def small_graph() -> Graph:
    """x -> linear(weight) -> relu -> output, and a buffer that is written to."""
    build = GraphBuilder()
    linear = build.aten.linear(build.input(), build.constant("weight", torch.ones(4, 4)))
    count = build.constant("count", torch.zeros(2, 4), "buffer")
    relu = build.aten.relu(linear, location=WHERE)
    build.graph.add_output(relu)
    build.write(count, relu)
    return build.graph


def test_a_small_graph_is_valid():
    verify(small_graph())


def test_a_buffer_that_is_only_written_to_does_not_dangle():
    assert "count" in small_graph().constants
    verify(small_graph())


def reads_a_later_value(graph):
    graph.set_operand(graph.node("linear"), "input", graph.node("relu").result)


def reads_an_erased_node(graph):
    relu = graph.node("relu")
    for output in graph.outputs:
        graph.set_output(output, graph.node("linear").result)
    graph.erase(relu)
    graph.set_output(graph.outputs[0], relu.result)


def reads_another_graph(graph):
    graph.set_operand(graph.node("relu"), "self", small_graph().node("linear").result)


def forgets_a_use(graph):
    graph.node("linear").result._uses.clear()


def invents_a_use(graph):
    linear, relu = graph.node("linear"), graph.node("relu")
    linear.result._uses[relu, "other", None] = None


def records_a_wrong_use(graph):
    linear, relu = graph.node("linear"), graph.node("relu")
    del linear.result._uses[relu, "self", None]
    linear.result._uses[relu, "self", 3] = None


def reads_without_telling(graph):
    graph.node("relu").operands["self"] = graph.inputs[0].value


def uses_a_name_twice(graph):
    graph.node("relu").name = "linear"


def takes_a_name_without_telling(graph):
    graph.node("relu").name = "unheard_of"


def has_an_unknown_operand(graph):
    graph.set_operand(graph.node("relu"), "inputs", graph.inputs[0].value)


def has_an_unknown_attribute(graph):
    graph.node("relu").attributes["selff"] = 1


def lacks_an_operand(graph):
    graph.set_operand(graph.node("linear"), "weight", None)
    graph.erase_constant(graph.constants["weight"])


def declares_a_wrong_shape(graph):
    graph.node("relu").result.type = TensorType(DType.FLOAT32, (2, 5))


def declares_a_wrong_element_type(graph):
    graph.node("relu").result.type = F32.with_dtype(DType.FLOAT16)


def gives_operands_that_do_not_fit(graph):
    graph.inputs[0].value.type = TensorType(DType.FLOAT32, (2, 3))


def has_an_undeclared_symbol(graph):
    graph.inputs[0].value.type = TensorType(DType.FLOAT32, (SymDim("s7"), 4))


def leaves_a_constant_dangling(graph):
    graph.add_constant("unread", torch.ones(1))


def has_data_of_another_shape(graph):
    graph.constants["weight"]._tensor = torch.ones(4, 5)


def has_data_of_another_element_type(graph):
    graph.constants["weight"]._tensor = torch.ones(4, 4, dtype=torch.float64)


def has_codes_out_of_range(graph):
    codes = graph.add_constant("codes", torch.full((3,), 9, dtype=torch.int8), type=TensorType(DType.INT4, (3,)))
    graph.add_output(codes.value)


def gives_two_constants_one_name(graph):
    graph.constants["count"].names = ("weight",)


def writes_twice_to_one_buffer(graph):
    graph.add_output(graph.node("relu").result, "buffer_mutation", target=graph.constants["count"].value)


def writes_another_type(graph):
    graph.add_output(graph.node("relu").result, "buffer_mutation", target=graph.constants["weight"].value)


def writes_to_a_constant_as_an_input(graph):
    graph.outputs[1].kind = "input_mutation"


def has_an_output_of_unknown_kind(graph):
    graph.outputs[0].kind = "users"


def breaks_the_node_list(graph):
    graph.node("relu")._previous = None


def reads_a_constant_of_another_graph(graph):
    graph.set_operand(graph.node("relu"), "self", small_graph().constants["weight"].value)


def reads_an_input_of_another_graph(graph):
    graph.set_operand(graph.node("linear"), "input", small_graph().inputs[0].value)


def has_an_input_with_the_value_of_another(graph):
    graph.add_input("y", F32).value = graph.inputs[0].value


def stores_a_constant_under_another_name(graph):
    graph.constants["wait"] = graph.constants.pop("weight")


def has_a_result_of_another_node(graph):
    graph.node("relu").results[0].producer = graph.node("linear")


def has_a_result_with_a_wrong_number(graph):
    graph.node("relu").results[0].index = 1


def gives_one_parameter_twice(graph):
    graph.node("relu").attributes["self"] = 1


def lacks_a_result(graph):
    graph.node("relu").results = ()
    graph.set_output(graph.outputs[0], graph.node("linear").result)
    graph.set_output(graph.outputs[1], graph.node("linear").result)


def has_float_codes_out_of_range(graph):
    type = TensorType(DType.FLOAT4_E2M1FN, (2,))
    graph.add_output(graph.add_constant("codes", torch.tensor([0, 16], dtype=torch.uint8), type=type).value)


def returns_to_a_target(graph):
    graph.outputs[0].target = graph.inputs[0].value


def writes_nothing(graph):
    graph.set_output(graph.outputs[1], None)


def writes_nowhere(graph):
    output = graph.outputs[1]
    output.target = None
    graph.constants["count"].value._uses.clear()
    graph.add_output(graph.constants["count"].value)


def writes_to_an_input_as_a_buffer(graph):
    graph.add_output(graph.node("relu").result, "buffer_mutation", target=graph.inputs[0].value)


def miscounts_its_nodes(graph):
    graph._count += 1


def lists_a_node_of_another_graph(graph):
    graph.node("relu").graph = small_graph()


def names_an_input_twice(graph):
    graph.add_input("x", F32).name = "x"


def has_a_scalar_of_an_undeclared_symbol(graph):
    graph.add_input("n", ScalarType("int", SymDim("s1 + 1")))


BROKEN = {
    reads_a_constant_of_another_graph: "relu reads weight as 'self', which is not among the constants of graph 'main'",
    reads_an_input_of_another_graph: "linear reads x as 'input', which is not among the inputs of graph 'main'",
    has_an_input_with_the_value_of_another: "input 'y': the producer of its value is x",
    stores_a_constant_under_another_name: "constant 'wait' is stored under another name",
    has_a_result_of_another_node: "relu .*: result 0 has another producer or index",
    has_a_result_with_a_wrong_number: "relu .*: result 0 has another producer or index",
    gives_one_parameter_twice: "'self' is both an operand and an attribute",
    lacks_a_result: r"has 0 results; aten\.relu gives 1",
    has_float_codes_out_of_range: r"'codes' holds codes 0\.\.16; f4e2m1fn has 0\.\.15",
    returns_to_a_target: "a user output has a target, x",
    writes_nothing: "a buffer_mutation output needs a value and a target",
    writes_nowhere: "a buffer_mutation output needs a value and a target",
    writes_to_an_input_as_a_buffer: "output writes to x; expected: constant",
    miscounts_its_nodes: "counts 3 nodes, but has 2",
    lists_a_node_of_another_graph: "is in the node list of graph 'main' but does not refer to this graph",
    names_an_input_twice: "the name 'x' is used twice",
    has_a_scalar_of_an_undeclared_symbol: "undeclared symbol 's1'",
    reads_a_later_value: r"linear \(aten.linear\), from .*: linear reads relu as 'input', which is computed only later",
    reads_an_erased_node: "user output reads relu as 'value', which was erased",
    reads_another_graph: "relu reads linear as 'self', which is in another graph",
    forgets_a_use: "reads linear as 'self', which its use list lacks",
    invents_a_use: "is in the use list of linear as 'other', but does not read it",
    records_a_wrong_use: "reads linear as 'self', which its use list lacks",
    reads_without_telling: "reads x as 'self', which its use list lacks",
    uses_a_name_twice: "the name 'linear' is used twice",
    takes_a_name_without_telling: "'unheard_of' is not reserved",
    has_an_unknown_operand: "aten.relu has no parameter 'inputs'",
    has_an_unknown_attribute: "no parameter 'selff'; did you mean 'self'",
    lacks_an_operand: "aten.linear needs 'weight'",
    declares_a_wrong_shape: r"relu is declared f32\[2, 5\], but aten.relu gives f32\[2, 4\]",
    declares_a_wrong_element_type: r"declared f16\[2, 4\], but aten.relu gives f32",
    gives_operands_that_do_not_fit: r"aten.linear does not accept \(input: f32\[2, 3\], weight: f32\[4, 4\]\)",
    has_an_undeclared_symbol: "undeclared symbol 's7'",
    leaves_a_constant_dangling: "constant 'unread' is dangling",
    has_data_of_another_shape: r"'weight' is f32\[4, 4\], but its data is f32\[4, 5\]",
    has_data_of_another_element_type: r"'weight' is f32\[4, 4\], but its data is f64",
    has_codes_out_of_range: r"'codes' holds codes 9..9; i4 has -8..7",
    gives_two_constants_one_name: "'weight' and 'count' have one qualified name",
    writes_twice_to_one_buffer: "two outputs write to count",
    writes_another_type: r"relu \(f32\[2, 4\]\) is written to weight \(f32\[4, 4\]\)",
    writes_to_a_constant_as_an_input: "writes to count; expected: input",
    has_an_output_of_unknown_kind: "output kind 'users'; did you mean 'user'",
    breaks_the_node_list: "the node list is broken",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_graph_is_refused_that(damage):
    graph = small_graph()
    damage(graph)
    with pytest.raises(VerificationError, match=BROKEN[damage]):
        verify(graph)


def test_the_error_names_node_module_and_line():
    graph = small_graph()
    declares_a_wrong_shape(graph)
    with pytest.raises(
        VerificationError, match=r"relu \(aten.relu\), from block.act \(ReLU\) at model.py:12"
    ) as caught:
        verify(graph)
    assert caught.value.node is graph.node("relu")


def test_data_is_looked_at_again_after_it_was_changed():
    graph = small_graph()
    codes = graph.add_constant("codes", torch.zeros(3, dtype=torch.int8), type=TensorType(DType.INT4, (3,)))
    graph.add_output(codes.value)
    verify(graph)
    codes.tensor[1] = 8
    with pytest.raises(VerificationError, match=r"codes 0..8"):
        verify(graph)


def test_a_broken_body_of_an_opaque_node_is_found():
    graph = captured("Condition").clone()
    body = next(a for node in graph.nodes for a in node.attributes.values() if isinstance(a, Graph))
    next(iter(body.nodes)).results[0].type = F32
    with pytest.raises(VerificationError, match="in its body 'true_graph_0'"):
        verify(graph)


def test_codes_may_have_every_value_of_their_type():
    build = GraphBuilder()
    for dtype, codes in ((DType.FLOAT4_E2M1FN, [0, 15]), (DType.INT4, [-8, 7]), (DType.UINT2, [0, 3])):
        held = torch.tensor(codes).to(dtype.torch_dtype)
        build.outputs(build.constant(dtype.value, held, "buffer", type=TensorType(dtype, (2,))))
    assert len(build.graph.constants) == 3


@pytest.mark.parametrize("change", ["an operand in a list", "an attribute", "the op"])
def test_what_was_found_good_does_not_speak_for_other_types_attributes_and_ops(change):
    def joined(rows, dim):
        build = GraphBuilder()
        x, y = build.input("x"), build.input("y", TensorType(DType.FLOAT32, (rows, 4)))
        return build.graph, build.node("aten.cat", [x, y], dim, types=[TensorType(DType.FLOAT32, (4, 4))])

    verify(joined(2, 0)[0])
    graph, node = joined(3 if change == "an operand in a list" else 2, 1 if change == "an attribute" else 0)
    if change == "the op":
        node.op = lookup_op("aten.stack")
    with pytest.raises(VerificationError, match=r"is declared f32\[4, 4\]"):
        verify(graph)


def test_a_result_of_several_that_nothing_reads_may_have_another_type():
    build = GraphBuilder()
    split = build.node("aten.split.Tensor", build.input(), 1)
    build.graph.add_output(split.results[0])
    split.results[1].type = TensorType(DType.FLOAT32, (7,))
    verify(build.graph)
    build.graph.add_output(split.results[1])
    with pytest.raises(VerificationError, match=r"split#1 is declared f32\[7\]"):
        verify(build.graph)


def test_a_signature_must_fit():
    graph = captured("ManyResults").clone()
    graph.add_output(graph.outputs[0].value)
    with pytest.raises(VerificationError, match="user outputs; its signature has"):
        verify(graph)


def test_numbers_that_python_calls_equal_are_told_apart():
    class Sums(torch.nn.Module):
        def forward(self, x):
            return x + 1, x + 1.0, x * 2, x * 2.0, x * True

    verify(from_module(Sums(), (torch.arange(4),)))
    graph = from_module(Sums(), (torch.arange(4),))
    verify(graph)
    next(iter(graph.nodes)).attributes["other"] = 1.0  # a sum of floats, declared to be integers
    with pytest.raises(VerificationError, match=r"is declared i64\[4\], but aten.add.Tensor gives f32\[4\]"):
        verify(graph)


def test_what_was_found_good_in_one_graph_is_still_checked_in_another():
    graph, other = small_graph(), small_graph()
    verify(graph)
    node = other.nodes[0]
    node.results[0].type = TensorType(DType.FLOAT32, (7, 7, 7))
    with pytest.raises(VerificationError, match="is declared"):
        verify(other)
    verify(graph)
