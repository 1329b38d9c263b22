"""Every compressor, execution mode and pass, asked about the same config and model, means the same weights."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from graphpress.ir import from_module
from graphpress.modules.forms import forms_of
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, PalettizationSpec
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.analysis.quantization_points import QuantizationPoints
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.config import SkippedWeight, SkipReason
from graphpress.passes.framework import run_pass
from graphpress.passes.palettize_weights import PalettizeWeights
from graphpress.passes.prune_weights import PruneWeights
from graphpress.passes.quantize_weights import QuantizeWeights
from graphpress.pruning import MagnitudePruner, MagnitudePrunerConfig, PruningSpec
from graphpress.quantization import QuantizationSpec, Quantizer, QuantizerConfig


class Network(nn.Module):
    """Layers of many kinds: shared, recurrent, of attention, with a max_norm, and two parameters of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(24, 16, max_norm=2.0)
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.first.weight = self.last.weight
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.recurrent = nn.GRU(16, 16, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.mix = nn.Parameter(torch.randn(16, 16))
        self.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, tokens):
        x = self.first(self.table(tokens))
        x = self.norm(x + self.attention(x, x, x)[0])
        x = self.recurrent(x)[0] @ self.mix
        return self.last(functional.linear(x, self.weight))


TOKENS = torch.arange(10).reshape(2, 5)
TIED = {"first.weight", "last.weight"}
ATTENTION = {"attention.in_proj_weight", "attention.out_proj.weight"}
RECURRENT = {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0"}
WRITTEN = {("table.weight", SkipReason.CHANGED_BY_FORWARD)}


def unnamed(names):
    return {(name, SkipReason.UNNAMED) for name in names}


CASES = {
    "by two names": (
        {"op_state_spec": {"weight": True, "in_proj_weight": True}},
        {*TIED, *ATTENTION, "weight"},
        WRITTEN | unnamed({*RECURRENT, "mix"}),
    ),
    "every weight": ({"op_state_spec": {"*": True}}, {*TIED, *ATTENTION, *RECURRENT, "mix", "weight"}, WRITTEN),
    "all but one name": (
        {"op_state_spec": {"in_proj_weight": None, "*": True}},
        {*TIED, "attention.out_proj.weight", *RECURRENT, "mix", "weight"},
        WRITTEN,
    ),
    "a name given up, whatever its operand is called": (
        {"op_state_spec": {"in_proj_weight": None, "weight": True, "mix": True}},
        {*TIED, "attention.out_proj.weight", "mix", "weight"},
        WRITTEN | unnamed(RECURRENT),
    ),
    "recurrent weights by an expression": ({"op_state_spec": {"weight_[ih]h_l0": True}}, RECURRENT, set()),
    "by an op type": (
        {"op_state_spec": None, "op_type_config": {"gru": {"op_state_spec": {"*": True}}}},
        RECURRENT,
        set(),
    ),
    "by a module's own states": (
        {"op_state_spec": None, "module_state_spec": {"mix": True, "weight": True, "in_proj_weight": None}},
        {*TIED, "attention.out_proj.weight", "mix", "weight"},
        WRITTEN,
    ),
}


def filled(entries, spec):
    """The dictionaries of a module config, with `spec` for True."""
    if isinstance(entries, dict):
        return {key: filled(value, spec) for key, value in entries.items()}
    return spec if entries is True else entries


def config_of(cls, spec, entries, modules=None, **options):
    entries = filled(entries, spec)
    if cls is QuantizerConfig:
        entries = {"op_input_spec": None, "op_output_spec": None, **entries}
        for each in entries.get("op_type_config", {}).values():
            each |= {"op_input_spec": None, "op_output_spec": None}
    named = {name: filled(each, spec) for name, each in (modules or {}).items()}
    data = {"global_config": entries, "module_name_configs": named, "on_unmatched": "ignore", **options}
    return cls.from_dict({cls.top_keys[0]: data})


PALETTIZATION = (KMeansPalettizerConfig, PalettizationSpec(n_bits=2).to_dict())
PRUNING = (MagnitudePrunerConfig, PruningSpec().to_dict())
QUANTIZATION = (QuantizerConfig, QuantizationSpec(dtype="int8").to_dict())


def of_compressor(compressor_class, technique, **options):
    def ask(model, entries, modules=None):
        compressor = compressor_class(model, config_of(*technique, entries, modules, **options))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared = compressor.prepare((TOKENS,))
        found = {f"{path}.{name}".lstrip(".") for path, each in prepared.named_modules() for name in forms_of(each)}
        return found, compressor.skipped_weights

    return ask


def of_pass(pass_class, technique):
    """The weights that a pass replaces by something else, by all their names."""

    def ask(model, entries, modules=None):
        graph = from_module(model, (TOKENS,))
        before = {id(constant.tensor): constant.names for constant in graph.constants.values()}
        result = run_pass(pass_class(config_of(*technique, entries, modules)), graph)
        kept = {id(constant.tensor) for constant in result.graph.constants.values()}
        return {name for each in before.keys() - kept for name in before[each]}, result.remarks(SkippedWeight)

    return ask


def of_graph_mode(model, entries, modules=None):
    graph = run_pass(AnnotateFusion(), from_module(model, (TOKENS,))).graph
    result = run_pass(AssignQuantizers(config_of(*QUANTIZATION, entries, modules)), graph)
    found = set()
    for node in result.graph.nodes:
        note = node.annotation(QuantizationPoints)
        for point in () if note is None else note.points:
            found |= set(root_constant(point.value(node)).names)
    return found, result.remarks(SkippedWeight)


ASKED = {
    "palettizer": of_compressor(KMeansPalettizer, PALETTIZATION),
    "pruner": of_compressor(MagnitudePruner, PRUNING),
    "eager quantizer": of_compressor(Quantizer, QUANTIZATION, execution_mode="eager"),
    "graph quantizer": of_graph_mode,
    "palettize-weights": of_pass(PalettizeWeights, PALETTIZATION),
    "prune-weights": of_pass(PruneWeights, PRUNING),
    "quantize-weights": of_pass(QuantizeWeights, QUANTIZATION),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("case", CASES)
def test_all_take_and_skip_the_same_weights(case, asked):
    entries, taken, skipped = CASES[case]
    found, records = ASKED[asked](Network().eval(), entries)
    assert found == taken
    assert {(record.name, record.reason) for record in records} == skipped


@pytest.mark.parametrize("asked", [name for name in ASKED if name != "graph quantizer"])
def test_of_the_places_of_a_shared_weight_the_most_specific_entry_decides(asked):
    every = {"op_state_spec": {"weight": True}}
    modules = {"first": {"op_state_spec": None}}
    found, _ = ASKED[asked](Network().eval(), every, modules)
    assert not TIED & found
    found, _ = ASKED[asked](Network().eval(), {"op_state_spec": None}, {"last": every})
    assert found == TIED


@pytest.mark.parametrize(("asked", "takes"), [("palettizer", True), ("pruner", True), ("eager quantizer", False)])
def test_what_is_only_added_is_a_weight_for_those_that_take_parameters(asked, takes):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.positions = nn.Linear(16, 16), nn.Parameter(torch.randn(5, 16))

        def forward(self, tokens):
            return self.layer(functional.one_hot(tokens, 16) + self.positions)

    found, records = ASKED[asked](Positions().eval(), {"op_state_spec": {"*": True}})
    assert found == {"layer.weight"} | ({"positions"} if takes else set())
    assert not records


@pytest.mark.parametrize(
    ("asked", "takes"), [("palettizer", False), ("palettize-weights", True), ("eager quantizer", True)]
)
def test_the_name_of_an_operand_counts_for_those_that_take_what_ops_read(asked, takes):
    found, records = ASKED[asked](Network().eval(), {"op_state_spec": {"weight": True}})
    assert ("attention.in_proj_weight" in found) is takes
    assert ("attention.in_proj_weight" in {record.name for record in records}) is not takes
