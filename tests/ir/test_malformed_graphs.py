"""Graphs from malformed text are refused by the verifier with its own error, in little time and memory."""

import pytest
import torch

from graphpress.ir import VerificationError, verify
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph
from graphpress.ir.inference import TypeInferenceError, infer_types, result_count
from graphpress.ir.ops import lookup_op
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.types import Symbol, SymDim, TensorType

X = "input %x: f32[2, 3]"
RELU = "%y: f32[2, 3] = aten.relu(self=%x)"


@pytest.mark.parametrize(
    "lines",
    [
        ("input %x: f32[-2, 3]", "%y: f32[-2, 3] = aten.relu(self=%x)"),
        (f"input %x: f32[{2**70}]", f"%y: f32[{2**70}] = aten.relu(self=%x)"),
        (f"input %x: f32[{2**40}, {2**40}]", f"%y: f32[{2**40}, {2**40}] = aten.relu(self=%x)"),
        (X, f"input %z: f32[{2**40}, {2**40}]", RELU),
        ("symbol s0: [0, 4] hint 0", "input %x: f32[8//s0]", "%y: f32[8//s0] = aten.relu(self=%x)"),
        ("symbol s0: [0, 4] hint 0", "input %x: f32[s0 - 4]", "%y: f32[s0 - 4] = aten.relu(self=%x)"),
        (X, 'const @w: f32[2] strange sha256("00")', "%y: f32[2] = aten.relu(self=@w)"),
        ('input %x: f32["\\ud800"]', "%y: f32[2] = aten.relu(self=%x)"),
        (X, RELU, 'signature(argument_names=3, in_spec="", out_spec="")'),
        (X, RELU, 'signature(argument_names=["x"], in_spec=[1], out_spec=[2])'),
        (X, '%y: f32[2, 3] = aten.relu(self="text")'),
        (X, "%y: f32[2, 3] = aten.sum.dim_IntList(self=%x) {dim=[1.5]}"),
        (X, "%y: f32[2, 3] = aten.reshape(self=%x) {shape=9}"),
        (X, f"%y: f32[2, 3] = aten.reshape(self=%x) {{shape=[{2**70}]}}"),
    ],
)
def test_a_malformed_graph_gets_an_error_of_the_verifier(lines):
    text = "graph @main {\n" + "\n".join(lines) + "\nreturn %y\n}"
    if "signature" in lines[-1]:
        text = "graph @main {\n" + "\n".join(lines[:-1]) + f"\nreturn %y\n{lines[-1]}\n}}"
    graph = parse_graph(text)
    with pytest.raises(VerificationError):
        verify(graph)


OPERANDS = [{}, {"arg0": 3}, {"indices": "a", "lut": (1,)}, {"input": None, "scale": 1.5, "zero_point": {}}]


@pytest.mark.parametrize("name", ["quant.quantize", "quant.dequantize", "quant.lut_to_dense", "quant.sparse_to_dense"])
@pytest.mark.parametrize("operands", OPERANDS)
def test_own_ops_refuse_operands_of_other_types(name, operands):
    with pytest.raises(TypeInferenceError):
        infer_types(lookup_op(name), operands, {}, {})


SPLITS = [
    ("aten.unbind.int", {}),
    ("aten.unbind.int", {"dim": 1}),
    ("aten.split.Tensor", {"split_size": 3}),
    ("aten.split.Tensor", {"split_size": 40, "dim": -1}),
    ("aten.chunk", {"chunks": 4}),
    ("aten.chunk", {"chunks": 100}),
    ("aten.tensor_split.sections", {"sections": 12}),
    ("aten.vsplit.int", {"sections": 5}),
]


@pytest.mark.parametrize(("name", "attributes"), SPLITS)
def test_results_are_counted_as_torch_counts_them(name, attributes):
    x = torch.zeros(10, 4)
    op = lookup_op(name)
    args, kwargs = op.unbind({"self": x, **attributes})
    count = result_count(op, {"self": TensorType.of(x), **attributes})
    assert count == len(op.target(*args, **kwargs))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("unbind.int", ""),
        ("split.Tensor", "split_size=1"),
        ("chunk", f"chunks={10**12}"),
        ("tensor_split.sections", f"sections={10**12}"),
    ],
)
def test_an_axis_with_a_trillion_parts_is_refused_before_it_is_split(op, attributes):
    text = f"input %x: i8[{10**12}]\n%y: (i8[1], i8[1]) = aten.{op}(self=%x) {{{attributes}}}"
    graph = parse_graph(f"graph @main {{\n{text.replace(' {}', '')}\nreturn %y#0\n}}")
    with pytest.raises(VerificationError, match=r"has 2 results; .* gives 1000000000000"):
        verify(graph)


def test_a_node_looks_up_the_symbols_of_its_operands_alone():
    class Counted(dict):
        def items(self):
            raise AssertionError("all symbols are visited for one node")

    x = Graph().add_input("x", TensorType(DType.FLOAT32, (SymDim("s1"), 3))).value
    symbols = Counted({f"s{number}": Symbol(2, 64, 3) for number in range(10)})
    for op in ("aten.relu", "aten.sum"):
        infer_types(lookup_op(op), {"self": x}, {}, symbols)
    assert infer_types(lookup_op("aten.relu"), {"self": x}, {}, symbols) == (x.type,)


def test_the_states_of_nodes_do_not_repeat_the_symbols_of_their_graph():
    text = "\n".join(f"symbol s{number}: [2, 64] hint 3" for number in range(50))
    graph = parse_graph(f"graph @main {{\n{text}\ninput %x: f32[s1]\n%y: f32[s1] = aten.relu(self=%x)\nreturn %y\n}}")
    verify(graph)
    assert len(str(graph.node("y")._verified_state)) < 200


def test_the_verifier_accepts_the_results_of_a_split():
    graph = parse_graph(
        "graph @main {\ninput %x: f32[5]\n%y: (f32[2], f32[2], f32[1]) = aten.split.Tensor(self=%x) {split_size=2}\n"
        "return %y#0\n}"
    )
    verify(graph)
    assert len(graph.nodes) == 1
