"""The placement `matmul-inputs`, which quantizes the operands of matrix products and nothing else."""

import pytest
from hypothesis import HealthCheck, given, settings

from graphpress.ir.graph import Node
from graphpress.passes.analysis.placement import MULTIPLYING
from graphpress.passes.analysis.quantization_points import QuantizationPoints, QuantizerNote
from graphpress.passes.analysis.value_preserving import only_moves_values
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.config import ModuleQuantizerConfig, OpQuantizerConfig, QuantizationScheme, QuantizerConfig
from graphpress.passes.framework.testing import GraphBuilder, f32
from graphpress.passes.insert_fake_quant import InsertFakeQuant
from graphpress.passes.share_quantizers import ShareQuantizers
from tests.passes.quantization_graphs import assigned, convolution, image, points, random, run, shared
from tests.properties.quantized_graphs import plain_graphs


def of_products(**entries):
    return QuantizerConfig(
        global_config=ModuleQuantizerConfig(**entries), placement="matmul-inputs", on_unmatched="ignore"
    )


def activations(graph):
    return sorted(place for place, quantizer in points(graph).items() if not quantizer.is_state)


def attention():
    b = GraphBuilder()
    x, mask = b.input("x", f32[2, 4, 8]), b.input("mask", f32[4, 4])
    normed = b.aten.layer_norm(x, [8], name="norm")
    query = b.aten.linear(normed, b.constant("query.weight", random(8, 8)), name="query")
    attended = b.aten.scaled_dot_product_attention(query, normed, normed, mask, name="attention")
    return b.outputs(b.aten.add.Tensor(b.aten.gelu(attended, name="gelu"), x, name="sum"))


# where


def test_sums_norms_activations_and_results_have_no_quantizer():
    found = activations(assigned(attention(), of_products()))
    assert found == [("attention", "key"), ("attention", "query"), ("attention", "value"), ("query", "input")]
    everywhere = activations(assigned(attention()))
    assert {("sum", "self"), ("gelu", "output"), ("norm", "output")} < set(everywhere)


def test_weights_keep_their_quantizers():
    assert points(assigned(attention(), of_products()))["query", "weight"].is_state


@pytest.mark.parametrize(("op", "addend"), [("addmm", "self"), ("baddbmm", "self")])
def test_what_a_product_adds_has_no_quantizer(op, addend):
    b = GraphBuilder()
    shape = f32[4, 4] if op == "addmm" else f32[2, 4, 4]
    operands = [b.input(name, shape) for name in "abc"]
    graph = b.outputs(getattr(b.aten, op)(*operands, name="product"))
    found = {operand for _, operand in activations(assigned(graph, of_products()))}
    assert len(found) == 2
    assert addend not in found
    assert addend in {operand for _, operand in activations(assigned(graph))}


def test_entries_that_name_an_op_or_its_type_are_obeyed():
    found = activations(assigned(attention(), of_products(op_type_config={"gelu": OpQuantizerConfig()})))
    assert ("gelu", "output") in found
    found = activations(assigned(attention(), of_products(op_name_config={"sum": OpQuantizerConfig()})))
    assert {("sum", "self"), ("sum", "other"), ("sum", "output")} < set(found)


def test_every_product_of_an_entry_by_module_name_follows_the_placement():
    config = QuantizerConfig(placement="matmul-inputs").set_module_name(".*", ModuleQuantizerConfig())
    assert activations(assigned(attention(), config)) == activations(assigned(attention(), of_products()))


# value-preserving ops


def moved(is_read_by_a_sum):
    b = GraphBuilder()
    product = b.aten.matmul(b.input("x", f32[2, 4, 4]), b.input("y", f32[2, 4, 4]), name="first")
    turned = b.aten.transpose.int(product, 1, 2, name="turned")
    second = b.aten.matmul(turned, b.input("z", f32[2, 4, 4]), name="second")
    return b.outputs(b.aten.add.Tensor(turned, second, name="sum") if is_read_by_a_sum else second)


def test_a_transpose_between_two_products_carries_codes():
    found = points(shared(moved(False), of_products()))
    assert found["turned", "self"].name == found["second", "self"].name


def test_nothing_that_a_sum_reads_is_quantized_because_a_product_reads_it_too():
    found = activations(shared(moved(True), of_products()))
    assert [place for place in found if place[0] in ("turned", "sum")] == []
    assert ("second", "self") in found


def test_the_parts_of_a_split_have_ranges_of_their_own():
    b = GraphBuilder()
    query, key = b.node("aten.chunk", b.input("x", f32[2, 4, 8]), 2, -1, name="chunk").results
    graph = b.outputs(b.aten.matmul(query, b.aten.transpose.int(key, 1, 2), name="scores"))
    found = points(shared(graph, of_products()))
    assert found["scores", "self"].name != found["scores", "other"].name
    everywhere = points(shared(graph))
    assert everywhere["scores", "self"].name == everywhere["scores", "other"].name


# known ranges


def joined(activation):
    b = GraphBuilder()
    first = b.aten.relu(convolution(b, image(b), "first"), name="relu")
    second = b.op(f"aten.{activation}", convolution(b, first, "second"), name="act")
    pooled = b.aten.max_pool2d(b.aten.cat([first, second], 1), (2, 2), name="pool")
    return b.outputs(convolution(b, pooled, "third"))


@pytest.mark.parametrize(("activation", "scheme"), [("relu", "asymmetric"), ("leaky_relu", "symmetric")])
def test_an_operand_without_negative_elements_has_an_asymmetric_grid(activation, scheme):
    found = points(shared(joined(activation), of_products()))
    assert found["third", "input"].spec.qscheme is QuantizationScheme(scheme)
    assert found["second", "input"].spec.qscheme is QuantizationScheme.ASYMMETRIC


def test_the_spec_of_an_entry_by_type_is_not_adapted():
    found = points(shared(joined("relu"), of_products(op_type_config={"conv2d": OpQuantizerConfig()})))
    assert found["third", "input"].spec.qscheme is QuantizationScheme.SYMMETRIC


# the property, and passes that lack it


def misplaced(graph):
    """The nodes that read fake-quantized activations, through ops that only move values, without multiplying them."""
    waiting = [node for node in graph.nodes if (note := node.annotation(QuantizerNote)) and not note.quantizer.is_state]
    seen, found = set(), []
    while waiting:
        node = waiting.pop()
        for user in {id(use.user): use.user for value in node.results for use in value.uses}.values():
            if not isinstance(user, Node):
                found.append("an output")
            elif user.op.name == "quant.fake_quantize" or only_moves_values(user):
                waiting += [] if id(user) in seen else [user]
                seen.add(id(user))
            elif user.op.family not in MULTIPLYING:
                found.append(user.name)
    return found


def placed_by(pass_, graph):
    return run(graph, AnnotateFusion(), pass_, ShareQuantizers(), InsertFakeQuant())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plain_graphs())
def test_only_products_read_quantized_activations(graph):
    assert misplaced(placed_by(AssignQuantizers(of_products(), leave_indivisible=True), graph)) == []


class AssignWithResults(AssignQuantizers):
    """Assigns by the other placement."""

    def run(self, graph, rewriter, context):
        AssignQuantizers(QuantizerConfig()).run(graph, rewriter, context)


class AssignWithEveryMover(AssignQuantizers):
    """Lets every value-preserving op carry codes."""

    def run(self, graph, rewriter, context):
        passive = {}
        everywhere = run(graph, AnnotateFusion(), AssignQuantizers(QuantizerConfig()))
        for node in everywhere.nodes:
            if only_moves_values(node) and node.annotation(QuantizationPoints):
                passive[node.name] = node.annotation(QuantizationPoints)
        super().run(graph, rewriter, context)
        for node in graph.nodes:
            if node.name in passive:
                rewriter.annotate(node, passive[node.name])


@pytest.mark.parametrize(
    ("wrong", "graph"), [(AssignWithResults, attention()), (AssignWithEveryMover, moved(True))], ids=lambda x: str(x)
)
def test_the_property_rejects_a_pass_that_is_wrong(wrong, graph):
    assert misplaced(placed_by(AssignQuantizers(of_products()), graph)) == []
    assert misplaced(placed_by(wrong(of_products()), graph))
