"""Which tensors eager mode quantizes, and how configs address them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphpress.config import UnmatchedConfigError, UnmatchedConfigWarning
from graphpress.passes.config import SkipReason, default_weight_quantization_spec
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization import (
    InvalidExecutionModeError,
    ModuleQuantizerConfig,
    QuantizationSpec,
    Quantizer,
    QuantizerConfig,
    WholeWeightsWarning,
)
from graphpress.quantization.config import KVCacheQuantConfig, OpQuantizerConfig
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity
from tests.graphpress.eager.eager_models import Branching, ConvNet, Runs, eager, names, prepared, random, seeded

X = random(2, 8, 8)
IMAGE = random(2, 8, 6, 6)
ACTIVATION = {"*": QuantizationSpec()}
UINT8 = QuantizationSpec(dtype="uint8", qscheme="asymmetric")


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(self.fc(x)) + self.fc(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.table(tokens))


# Observed of coreai-opt 0.3.0, where ``add_quantize_input`` is what ``add_input`` is here.
SAME_AS_THE_PEER = {
    "relu": (Runs(lambda m, x: F.relu(x)), X, []),
    "softmax": (Runs(lambda m, x: F.softmax(x, -1)), X, []),
    "cat": (Runs(lambda m, x: torch.cat([x, x])), X, []),
    "reshape": (Runs(lambda m, x: x.reshape(2, -1)), X, []),
    "norm": (Runs(lambda m, x: F.layer_norm(x, (8,))), X, []),
    "sum": (Runs(lambda m, x: x + x), X, ["add_input", "add_other", "add_output"]),
    "scalar": (Runs(lambda m, x: x + 1), X, ["add_input", "add_output"]),
    "parameter": (Runs(lambda m, x: x + m.weight), X, ["add_input", "add_output"]),
    "buffer": (Runs(lambda m, x: x + m.table), X, ["add_input", "add_output"]),
    "max pool": (Runs(lambda m, x: F.max_pool2d(x, 2)), IMAGE, ["max_pool2d_input", "max_pool2d_output"]),
    "computed": (
        Runs(lambda m, x: F.linear(x, x[0])),
        X,
        ["linear_input", "linear_weight", "linear_output"],
    ),
    "in place": (
        Runs(lambda m, x: (x * 1).add_(x)),
        X,
        ["mul_input", "mul_output", "add_input", "add_other", "add_output"],
    ),
    "conv, norm, relu": (
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU()),
        IMAGE,
        ["0.conv2d_input", "0.conv2d_output", "0.weight"],
    ),
    "embedding": (nn.Embedding(10, 8), torch.tensor([[1, 2]]), ["embedding_output", "weight"]),
    "conv transpose": (
        nn.ConvTranspose2d(8, 4, 2),
        IMAGE,
        ["conv_transpose2d_input", "conv_transpose2d_output", "weight"],
    ),
    "called twice": (
        Twice(),
        X,
        ["fc.linear_input", "fc.linear_output", "fc.weight", "add_input", "add_other", "add_output"],
    ),
    "sequential with an op": (
        Residual(nn.Linear(8, 8), nn.ReLU()),
        X,
        ["0.linear_input", "0.linear_output", "0.weight", "add_input", "add_other", "add_output"],
    ),
    "tied": (
        Tied(),
        torch.tensor([[1, 2]]),
        ["table.embedding_output", "table.weight", "head.linear_input", "head.linear_output"],
    ),
}


@pytest.mark.parametrize("case", SAME_AS_THE_PEER)
def test_quantizers_are_where_the_peer_has_them(case):
    model, inputs, expected = SAME_AS_THE_PEER[case]
    _, module = prepared(model.eval(), inputs)
    assert sorted(names(module)) == sorted(expected)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: x @ m.weight, ["matmul_input", "matmul_output", "weight"]),
        (lambda m, x: F.linear(x, m.weight.t()), ["linear_input", "linear_output", "weight"]),
        (lambda m, x: torch.einsum("bij,jk->bik", x, m.weight), ["einsum_operands_0", "einsum_output", "weight"]),
        (lambda m, x: 1 - x, ["sub_input", "sub_output"]),
        (lambda m, x: x.bmm(x), ["bmm_input", "bmm_mat2", "bmm_output"]),
        (
            lambda m, x: F.scaled_dot_product_attention(x, x, x),
            [f"scaled_dot_product_attention_{name}" for name in ("query", "key", "value", "output")],
        ),
        (lambda m, x: x + x.mean(), ["add_input", "add_output"]),
        (lambda m, x: x + (m.table * 2).exp(), ["add_input", "add_output"]),
    ],
)
def test_ops_that_the_peer_leaves_out_are_quantized_too(function, expected):
    _, module = prepared(Runs(function).eval(), X)
    assert sorted(names(module)) == sorted(expected)


@pytest.mark.parametrize(
    ("model", "inputs", "weights"),
    [
        (nn.LSTM(8, 8), (X,), ["weight_hh_l0", "weight_ih_l0"]),
        (nn.GRU(8, 8, bidirectional=True), (X,), [f"weight_{g}_l0{r}" for g in ("hh", "ih") for r in ("", "_reverse")]),
        (nn.RNNCell(8, 8), (X[0],), ["weight_hh", "weight_ih"]),
        (nn.LSTMCell(8, 8), (X[0],), ["weight_hh", "weight_ih"]),
        (nn.Bilinear(8, 8, 3), (X, X), ["weight"]),
        (nn.MultiheadAttention(8, 2), (X, X, X), ["in_proj_weight", "out_proj.weight"]),
    ],
)
def test_one_key_means_weights_whatever_they_are_called(model, inputs, weights):
    every = eager(op_input_spec=None, op_output_spec=None, op_state_spec={"*": default_weight_quantization_spec()})
    _, module = prepared(model.eval(), inputs, every)
    assert sorted(names(module)) == sorted(weights)
    module(*inputs)


def test_recurrent_weights_are_taken_when_named_and_else_skipped_with_a_warning():
    weights = ["weight_ih_l0", "weight_hh_l0"]
    with pytest.warns(WholeWeightsWarning, match="2 weights skipped:\n  weight_ih_l0: .*'weight_ih_l0' or"):
        quantizer, module = prepared(nn.LSTM(8, 8), X, eager(ModuleQuantizerConfig.presets.w8()))
    assert not names(module)
    assert [(each.name, each.reason) for each in quantizer.skipped_weights] == [
        (name, SkipReason.UNNAMED) for name in weights
    ]
    named = eager(op_input_spec=None, op_output_spec=None, op_state_spec={"weight_ih.*": QuantizationSpec()})
    _, module = prepared(nn.LSTM(8, 8), X, named)
    assert names(module) == ["weight_ih_l0"]


def test_a_weight_read_the_other_way_round_has_its_scales_along_the_output_channels():
    _, module = prepared(Runs(lambda m, x: F.linear(x, m.weight.t())), X, eager(ModuleQuantizerConfig.presets.w4()))
    scale, _, _ = module._quantizers.get("weight").qparams(module._parameters["weight"])
    assert scale.shape == (1, 8)


# addressing


def test_inputs_are_addressed_by_index_and_by_name():
    config = {"op_output_spec": None, "op_state_spec": None}
    model = Runs(lambda m, x: x + x)
    for key in (1, "other", "oth.*"):
        _, module = prepared(model, X, eager(op_input_spec={key: QuantizationSpec()}, **config))
        assert names(module) == ["add_other"]
    _, module = prepared(model, X, eager(op_input_spec={"*": QuantizationSpec(), 0: None}, **config))
    assert names(module) == ["add_other"]


def test_ops_are_addressed_by_the_names_of_the_documents():
    model = Runs(lambda m, x: m.fc(x) + x + 1, fc=nn.Linear(8, 8))
    only = OpQuantizerConfig(op_output_spec=None, op_state_spec=None)
    for pattern, expected in [
        ("add_1", ["add_1_input"]),
        ("fc.linear", ["fc.linear_input"]),
        (r"fc\..*", ["fc.linear_input"]),
    ]:
        config = eager(op_input_spec=None, op_output_spec=None, op_state_spec=None, op_name_config={pattern: only})
        assert names(prepared(model, X, config)[1]) == expected


def test_ops_beyond_the_covered_ones_are_quantized_where_their_type_or_name_is_meant():
    model = Runs(lambda m, x: torch.softmax(x.relu(), -1))
    config = eager(op_type_config={"softmax": OpQuantizerConfig(op_input_spec=None)})
    assert names(prepared(model, X, config)[1]) == ["softmax_output"]
    config = eager(op_name_config={"relu": OpQuantizerConfig(op_output_spec={"*": UINT8}, op_input_spec=None)})
    (quantizer,) = names(prepared(model, X, config)[1])
    assert quantizer == "relu_output"


def test_an_op_config_of_none_leaves_its_ops_whole():
    model = Runs(lambda m, x: m.fc(x) * x, fc=nn.Linear(8, 8))
    assert names(prepared(model, X, eager(op_type_config={"linear": None}))[1]) == [
        "mul_input",
        "mul_other",
        "mul_output",
    ]


def test_module_entries_go_by_precedence():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    int4 = ModuleQuantizerConfig(
        op_input_spec=None,
        op_state_spec={"weight": QuantizationSpec(dtype="int4", granularity=PerChannelGranularity())},
    )
    config = (
        QuantizerConfig(execution_mode="eager")
        .set_module_type(nn.Linear, int4)
        .set_module_name("1", None)
        .set_module_name("2", ModuleQuantizerConfig(module_state_spec={"weight": UINT8}))
    )
    _, module = prepared(model, X, config)
    assert names(module) == ["0.linear_output", "0.weight", "2.linear_input", "2.linear_output", "2.weight"]
    assert module[0]._quantizers.get("weight").spec.n_bits == 4
    assert module[2]._quantizers.get("weight").spec == UINT8


def test_what_enters_and_leaves_a_module_overrides_its_ops():
    model = Runs(lambda m, x: m.block(x) * 2, block=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    block = ModuleQuantizerConfig(
        op_state_spec=None, module_input_spec={0: UINT8}, module_output_spec={"*": QuantizationSpec(dtype="int4")}
    )
    config = QuantizerConfig(execution_mode="eager", global_config=None, module_name_configs={"block": block})
    _, module = prepared(model, X, config)
    assert sorted(names(module)) == [
        "block.0.linear_output",
        "block.2.linear_input",
        "block.module_input_0",
        "block.module_output_0",
    ]
    assert module.block._quantizers.get("module_input_0").spec == UINT8
    assert [type(child).__name__ for child in module.block] == ["Linear", "ReLU", "Linear"]
    assert len(module.block) == 3
    assert torch.isfinite(module(X)).all()


def test_a_module_boundary_of_none_leaves_what_crosses_it_whole():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    config = QuantizerConfig(
        execution_mode="eager", module_name_configs={"1": ModuleQuantizerConfig(module_output_spec={"*": None})}
    )
    assert "1.linear_output" not in names(prepared(model, X, config)[1])


def test_a_cache_is_quantized_where_an_op_updates_it():
    def update(module, x):
        return torch.cat([x, x])

    cache = KVCacheQuantConfig(
        op_quantizer_config=OpQuantizerConfig(op_input_spec={"tensors_0": QuantizationSpec()}, op_output_spec=None)
    )
    config = QuantizerConfig(
        execution_mode="eager",
        global_config=ModuleQuantizerConfig.presets.w8(),
        kv_cache_quant_configs={"concat": cache},
    )
    assert names(prepared(Runs(update), X, config)[1]) == ["concat_tensors_0"]


# what does not fit


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (QuantizerConfig(execution_mode="eager").set_module_name("convv", None), r"'convv'.*did you mean 'conv'"),
        (eager(op_name_config={"fc.linaer": None}), r"fc.linaer.*did you mean 'fc.linear'"),
        (eager(op_input_spec={7: QuantizationSpec()}), r"op_input_spec\[7\] matches no tensor at that index"),
        (eager(op_state_spec={"weigth": QuantizationSpec()}), r"weigth.*did you mean 'weight'"),
    ],
)
def test_entries_that_match_nothing_are_errors_with_near_names(config, message):
    with pytest.raises(UnmatchedConfigError, match=message):
        prepared(seeded(ConvNet), random(2, 3, 8, 8), config)


def test_entries_by_type_that_match_nothing_are_warnings():
    with pytest.warns(UnmatchedConfigWarning, match="'lstm'. matches no op of that type"):
        prepared(nn.Linear(8, 8), X, eager(op_type_config={"lstm": None}))


def test_blocks_that_do_not_fit_are_one_error_that_names_the_weights():
    spec = QuantizationSpec(dtype="int4", granularity=PerBlockGranularity(block_size=3))
    with pytest.raises(QuantizationError, match=r"(?s)3 weights cannot be divided.*\n  fc.weight.*\n  down.weight"):
        prepared(Branching(), X, eager(op_state_spec={"weight": spec}))


def test_options_that_need_a_graph_are_refused():
    for option in ({"weight_rounding": "gptq"}, {"equalize_layers": True}, {"bias_correction": "empirical"}):
        config = QuantizerConfig(execution_mode="eager", **option)
        with pytest.raises(InvalidExecutionModeError, match="cannot be used in execution_mode 'eager'"):
            prepared(nn.Linear(8, 8), X, config)


def test_a_model_that_does_not_run_is_one_clear_error_and_may_be_prepared_again():
    quantizer = Quantizer(nn.Linear(8, 8), eager())
    with pytest.raises(QuantizationError, match="Linear does not run on the example inputs: RuntimeError"):
        quantizer.prepare((random(2, 3),))
    quantizer.prepare((X,))


def test_a_weight_that_its_layer_rewrites_is_left_with_a_warning():
    with pytest.warns(WholeWeightsWarning, match="max_norm"):
        prepared(nn.Embedding(10, 8, max_norm=1.0), torch.tensor([1]))
