from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.ir.torch.capture import from_module
from graphpress.passes.config import ModuleQuantizerConfig, OpQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization import Quantizer
from tests.passes.quantization_graphs import places, shared

INT8 = {"*": QuantizationSpec()}


class Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", 10000 ** -(torch.arange(4) / 4))
        self.query = nn.Linear(8, 8)

    def forward(self, x, positions):
        angles = (self.frequencies[None, :, None].expand(x.shape[0], -1, 1) @ positions[:, None, :].float()).mT
        angles = torch.cat((angles, angles), dim=-1)
        query = self.query(x)
        return query * angles.cos() + query.flip(-1) * angles.sin()


class TimeSteps(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", 10000 ** -(torch.arange(16) / 16))
        self.layer = nn.Linear(32, 16)

    def forward(self, steps):
        angles = steps.unsqueeze(1) * self.frequencies
        return self.layer(torch.cat([angles.sin(), angles.cos()], dim=-1))


class Sine(nn.Module):
    """A layer of a network with sines as activations."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.sin(30 * self.layer(x))


class SineOfProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return torch.sin(x @ self.weight)


class Snake(nn.Module):
    def forward(self, x):
        return x + torch.sin(3 * x)


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, pixels):
        return self.layer((pixels.float() / 255 - 0.5) / 0.25)


class PooledPixels(Pixels):
    def forward(self, pixels):
        return self.layer(nn.functional.avg_pool2d(pixels.float() / 255, 2))


class IntegerMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, scores, mask):
        return self.layer(torch.softmax(scores + (1.0 - mask.float()) * -1e9, dim=-1))


class MeanOverLengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, lengths):
        return self.layer(x.sum(1) / lengths.float())


class Buckets(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(8, 4), nn.Linear(4, 4)

    def forward(self, distance):
        return self.layer(self.table((distance * 2.0).clamp(0, 7).long()))


class Normalized(nn.Module):
    """A norm that is spelled out, behind a layer and before one, by one of several formulas."""

    def __init__(self, inverse):
        super().__init__()
        self.first, self.last, self.inverse = nn.Linear(8, 8), nn.Linear(8, 8), inverse

    def forward(self, x):
        hidden = self.first(x)
        return self.last(self.inverse(hidden, hidden.square().mean(-1, keepdim=True) + 1e-6))


INVERSES = {
    "rsqrt": lambda x, variance: x * variance.rsqrt(),
    "power": lambda x, variance: x * torch.pow(variance, -0.5),
    "reciprocal": lambda x, variance: x * variance.sqrt().reciprocal(),
    "quotient": lambda x, variance: x / variance.sqrt(),
    "clamped": lambda x, variance: x / variance.sqrt().clamp(min=1e-3),
}


class MaskedAttention(nn.Module):
    """Attention whose mask has a finite edge."""

    def __init__(self, edge, function):
        super().__init__()
        self.query, self.key, self.edge, self.function = nn.Linear(8, 8), nn.Linear(8, 8), edge, function

    def forward(self, x, mask):
        return self.function(self.query(x) @ self.key(x).mT / 8**0.5, mask, self.edge) @ x


MASKS = {
    "added": lambda scores, mask, edge: (scores + torch.where(mask, 0.0, edge)).softmax(-1),
    "filled": lambda scores, mask, edge: scores.masked_fill(~mask, edge).softmax(-1),
    "subtracted": lambda scores, mask, edge: (scores - torch.where(mask, 0.0, -edge)).softmax(-1),
}


def decibels(model, *inputs, config=None):
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare(inputs)
    with torch.no_grad():
        wanted, got = model(*inputs), prepared(*inputs)
    return 10 * torch.log10(wanted.square().sum() / (got - wanted).square().sum()).item()


def found(model, *inputs, **config):
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(**config))
    return [place for place in places(shared(from_module(model, inputs), config)) if place[1] != "weight"]


ROTARY = (torch.randn(2, 5, 8), torch.arange(5).repeat(2, 1))
IMAGE = (torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8),)


def test_rotary_positions_have_no_quantizer_up_to_the_sine_and_the_query_has_one():
    nodes = {node for node, _ in found(Rotary(), *ROTARY)}
    assert nodes == {"linear", "mul", "flip", "mul_1", "add"}


def test_a_raw_time_step_has_no_quantizer_before_its_embedding_and_the_layer_after_it_has_one():
    assert {node for node, _ in found(TimeSteps(), torch.rand(3))} == {"cat", "linear"}


def test_an_embedding_of_time_steps_gains_more_than_ten_decibels_without_quantizers_of_angles():
    torch.manual_seed(0)
    model, steps = TimeSteps().eval(), 1000 * torch.rand(64)
    blanket = {"mul": OpQuantizerConfig(op_input_spec=INT8, op_output_spec=INT8)}

    quantized = QuantizerConfig(global_config=ModuleQuantizerConfig(op_type_config=blanket))
    assert decibels(model, steps) > decibels(model, steps, config=quantized) + 10


def test_the_input_of_a_layer_whose_result_is_an_angle_keeps_its_quantizer_and_the_angle_has_none():
    assert found(Sine(), torch.randn(2, 8)) == [("linear", "input")]


def test_a_product_with_a_parameter_is_a_layer():
    assert found(SineOfProduct(), torch.randn(2, 8)) == [("matmul", "other"), ("matmul", "self")]


def test_a_value_that_is_read_elsewhere_too_keeps_its_quantizer_there():
    assert found(Snake(), torch.randn(2, 8)) == [("add", "other"), ("add", "output"), ("add", "self")]


def test_pixels_that_reach_a_convolution_keep_their_quantizers():
    assert found(Pixels(), *IMAGE) == [
        ("conv2d", "input"),
        ("conv2d", "output"),
        ("div", "output"),
        *((node, place) for node in ("div_1", "sub") for place in ("output", "self")),
    ]
    assert ("div", "output") in found(PooledPixels(), *IMAGE)


def test_masks_and_lengths_made_from_integers_have_no_quantizer():
    mask = found(IntegerMask(), torch.randn(2, 4), torch.ones(2, 4, dtype=torch.long))
    assert {node for node, _ in mask} == {"softmax", "linear"}
    lengths = found(MeanOverLengths(), torch.randn(2, 5, 3), torch.tensor([[3], [5]]))
    assert {node for node, _ in lengths} == {"div", "linear"}


@pytest.mark.parametrize("name", INVERSES)
def test_the_variance_of_a_norm_that_is_spelled_out_has_no_quantizer(name):
    torch.manual_seed(0)
    model = Normalized(INVERSES[name])
    layers = {node for node, _ in found(model, torch.randn(4, 8))} - {"mul", "div", "rsqrt"}
    assert layers <= {"linear", "linear_1", "reciprocal", "pow_1", "square"}
    rows = torch.randn(64, 8) * torch.logspace(-2, 0, 64)[:, None]
    assert decibels(model.eval(), rows) > 15


def test_what_only_divides_has_no_quantizer_and_what_is_divided_has_that_of_its_layer():
    places = found(Normalized(INVERSES["quotient"]), torch.randn(4, 8))
    assert [place for place in places if place[0] == "div"] == [("div", "output"), ("div", "self")]
    assert {node for node, _ in places} == {"linear", "div", "linear_1"}


@pytest.mark.parametrize("edge", [-1e4, -1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_with_any_edge_leaves_the_scores_their_range(name, edge):
    torch.manual_seed(0)
    model = MaskedAttention(edge, MASKS[name]).eval()
    x, mask = torch.randn(2, 6, 8), torch.ones(6, 6, dtype=torch.bool).tril()
    assert decibels(model, x, mask) > 30
    assert ("matmul", "output") in found(model, x, mask)  # the result of a product is an activation


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "div", "clamp"])
def test_an_operand_of_an_op_that_is_computed_in_floats_has_no_quantizer_of_its_own(name):
    function = {
        "softmax": lambda x: x.softmax(-1),
        "layer_norm": lambda x: nn.functional.layer_norm(x, (8,)),
        "div": lambda x: x / 3,
        "clamp": lambda x: x.clamp(-1, 1),
    }[name]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(function(x))

    def operands(**config):
        return [place for node, place in found(Model(), torch.randn(2, 8), **config) if node == name != place]

    assert [place for place in operands() if place != "output"] == []
    asked = operands(op_type_config={name: OpQuantizerConfig(op_input_spec=INT8)})
    assert len([place for place in asked if place != "output"]) == 1


def test_floats_that_become_indices_have_no_quantizer():
    assert {node for node, _ in found(Buckets(), torch.rand(6))} == {"embedding", "linear"}


@pytest.mark.parametrize("table", ["op_type_config", "op_name_config"])
def test_an_entry_for_the_op_or_its_type_quantizes_an_angle(table):
    config = {table: {"mul": OpQuantizerConfig(op_input_spec=INT8, op_output_spec=INT8)}}
    wanted = [("mul", "output"), ("mul", "self")]
    assert [place for place in found(TimeSteps(), torch.rand(3), **config) if place[0] == "mul"] == wanted


class Routed(nn.Module):
    """Scores that choose rows, as a router does, and a softmax that does not."""

    def __init__(self):
        super().__init__()
        self.body, self.router = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        hidden = self.body(x).softmax(-1)
        values, chosen = (self.router(hidden) * 2).softmax(-1).topk(2)
        return hidden[:, :2] * values, chosen


def test_scores_of_a_choice_have_no_quantizer_through_softmax_and_elementwise_ops():
    points = set(found(Routed(), torch.randn(3, 8)))
    assert {("softmax", "output"), ("linear_1", "input"), ("mul_1", "self"), ("mul_1", "other")} <= points
    assert ("linear_1", "output") not in points
    assert not {"mul", "softmax_1", "topk"} & {node for node, _ in points}


@pytest.mark.parametrize(
    "choose",
    [torch.argmax, torch.argsort, torch.sort, lambda x: torch.topk(x, 2)],
    ids=["argmax", "argsort", "sort", "topk"],
)
def test_a_layer_whose_result_is_only_chosen_from_has_a_quantizer_at_its_input_alone(choose):
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return choose(self.layer(x))

    assert found(Chooses(), torch.randn(2, 8)) == [("linear", "input")]
