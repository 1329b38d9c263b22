"""Random graphs on their way through quantization, and parameters for their fake-quantizers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st

from graphpress.ir import reference
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.quantization_points import QuantizerNote
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.config import PerTensorGranularity, QuantizationScheme, QuantizationSpec, QuantizerConfig
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pass, Pipeline, Runner
from graphpress.passes.insert_fake_quant import InsertFakeQuant
from graphpress.passes.share_quantizers import ShareQuantizers
from tests.ir.strategies import graphs
from tests.properties.layer_graphs import with_own_names

QUANTIZABLE = ("convolution", "grouped_convolution", "transposed_convolution", "linear", "activation", "clamp")
MOVING = ("reshape", "transpose", "pool", "cat", "split", "max", "mean")
OTHERS = ("add", "mul", "softmax")


def plain_graphs(max_nodes: int = 10) -> st.SearchStrategy[Graph]:
    """Graphs of quantizable ops and of ops that only move values, with names a person could have given."""
    only = QUANTIZABLE + MOVING + OTHERS
    return graphs(max_nodes, only=only, with_hostile_names=False, with_literals=False).map(with_own_names)


@st.composite
def specs(draw: st.DrawFn, dtypes: Sequence[str] = ("int8", "uint8")) -> QuantizationSpec:
    """A spec for a whole tensor: any scheme and formulation that `dtypes` take."""
    dtype = draw(st.sampled_from(dtypes))
    if dtype.startswith("float"):
        return QuantizationSpec(dtype=dtype)
    scheme = draw(st.sampled_from(["symmetric", "asymmetric", "symmetric_with_clipping"]))
    return QuantizationSpec(dtype=dtype, qscheme=scheme, qformulation=draw(st.sampled_from(["zp", "minval"])))


def config_of(activation: QuantizationSpec | None = None, weight: QuantizationSpec | None = None) -> QuantizerConfig:
    """The default config, with these specs in the place of its own."""
    config = QuantizerConfig(on_unmatched="ignore")
    if activation is not None:
        config.global_config.op_input_spec = {"*": activation}
        config.global_config.op_output_spec = {"*": activation}
    if weight is not None:
        config.global_config.op_state_spec = {"weight": weight}
    return config


def run(graph: Graph, *passes: Pass) -> Graph:
    """What `passes` make of a copy of `graph`; the facts they need are assumed."""
    needs = {fact for pass_ in passes for fact in pass_.needs}
    return Runner().run(graph, Pipeline(*passes, assume=needs)).graph


def with_quantizers(graph: Graph, config: QuantizerConfig | None = None) -> Graph:
    """`graph` with the fake-quantizers of `config`, none removed yet, none calibrated."""
    assign = AssignQuantizers(config or QuantizerConfig(), leave_indivisible=True)
    return run(graph, AnnotateFusion(), assign, ShareQuantizers(), InsertFakeQuant(), FoldConstants())


def calibrated(graph: Graph, low: float = -1.5, high: float = 2.25) -> Graph:
    """A copy of `graph` whose fake-quantizers have parameters: activations for ``[low, high]``, weights for their own
    range.
    """
    graph = graph.clone()
    rewriter = Rewriter(graph)
    known: dict[str, dict[str, Value]] = {}
    for node in graph.nodes:
        note = node.annotation(QuantizerNote)
        if note is not None:
            if note.quantizer.name not in known:
                known[note.quantizer.name] = _parameters(node, note, low, high, rewriter)
            for name, value in known[note.quantizer.name].items():
                rewriter.set_operand(node, name, value)
    return graph


def _parameters(node: Node, note: QuantizerNote, low: float, high: float, rewriter: Rewriter) -> dict[str, Value]:
    spec, block = note.quantizer.spec, note.quantizer.block_size
    constant = node.operands["input"].constant
    if constant is not None:
        least, greatest = reference.block_range(constant.tensor, block)
    else:
        assert isinstance(spec.granularity, PerTensorGranularity)
        fixed = (
            (low if spec.float_range[0] is None else spec.float_range[0]),
            (high if spec.float_range[1] is None else spec.float_range[1]),
        )
        least, greatest = map(torch.tensor, fixed)
    codes = {} if spec.element_type.is_floating else {"quant_min": spec.quant_min, "quant_max": spec.quant_max}
    symmetric = spec.qscheme is not QuantizationScheme.ASYMMETRIC
    parameters = reference.qparams_from_range(
        least, greatest, dtype=spec.element_type, symmetric=symmetric, formulation=spec.qformulation.value, **codes
    )
    named = zip(("scale", "zero_point", "minval"), parameters, strict=True)
    return {
        name: rewriter.add_constant(f"{note.quantizer.name}_{name}", tensor)
        for name, tensor in named
        if tensor is not None
    }
