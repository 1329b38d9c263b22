from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.ir.torch.capture import from_module
from graphpress.passes.config import ModuleQuantizerConfig, OpQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization import Quantizer
from tests.passes.quantization_graphs import assigned, places

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
    def forward(self, scores, mask):
        return torch.softmax(scores + (1.0 - mask.float()) * -1e9, dim=-1)


class MeanOverLengths(nn.Module):
    def forward(self, x, lengths):
        return x.sum(1) / lengths.float()


class Buckets(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 4)

    def forward(self, distance):
        return self.table((distance * 2.0).clamp(0, 7).long())


def found(model, *inputs, **config):
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(**config))
    return [place for place in places(assigned(from_module(model, inputs), config)) if place[1] != "weight"]


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

    def decibels(config):
        quantizer = Quantizer(model, QuantizerConfig(global_config=config))
        prepared = quantizer.prepare((steps,))
        with torch.no_grad():
            wanted, lost = model(steps), prepared(steps) - model(steps)
        return 10 * torch.log10(wanted.square().sum() / lost.square().sum()).item()

    assert decibels(ModuleQuantizerConfig()) > decibels(ModuleQuantizerConfig(op_type_config=blanket)) + 10


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
        *((node, place) for node in ("div", "div_1", "sub") for place in ("output", "self")),
    ]
    assert ("div", "output") in found(PooledPixels(), *IMAGE)


def test_masks_and_lengths_made_from_integers_have_no_quantizer():
    mask = found(IntegerMask(), torch.randn(2, 4), torch.ones(2, 4, dtype=torch.long))
    assert mask == [("add", "output"), ("add", "self"), ("softmax", "output"), ("softmax", "self")]
    lengths = found(MeanOverLengths(), torch.randn(2, 5, 3), torch.tensor([[3], [5]]))
    assert lengths == [("div", "output"), ("div", "self")]


def test_floats_that_become_indices_have_no_quantizer():
    assert {node for node, _ in found(Buckets(), torch.rand(6))} == {"embedding"}


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


@pytest.mark.parametrize("choose", [torch.argmax, torch.argsort, torch.sort, lambda x: torch.topk(x, 2)], ids=str)
def test_a_layer_whose_result_is_only_chosen_from_has_a_quantizer_at_its_input_alone(choose):
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return choose(self.layer(x))

    assert found(Chooses(), torch.randn(2, 8)) == [("linear", "input")]
