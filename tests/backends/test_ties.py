"""Ties that fall to the other side in a file are explained, whatever they grow to; wrong lowerings are not.

The weights are multiples of a half and the scales powers of two, so that every second sum is exactly on a tie. A file
is simulated by the program itself with sums that are off by one unit in the last place, and one deliberate mistake.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from graphpress.backends import blame
from graphpress.backends.coreai import register
from graphpress.backends.coreai.ops import quantize
from graphpress.backends.evaluation import Evaluation, draws

register()
aten, coreai = torch.ops.aten, torch.ops.coreai
X = torch.randint(-8, 9, (2, 4, 8, 8), generator=torch.Generator().manual_seed(0)).float()


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        for name, shape in (("first", (4, 4, 3, 3)), ("second", (4, 4, 3, 3)), ("head", (3, 256))):
            self.register_buffer(name, torch.randint(-2, 3, shape, generator=generator) / 2)
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("coarse", torch.tensor(8.0))
        self.register_buffer("zero", torch.tensor(3, dtype=torch.int8))

    def quantized(self, x, scale):
        codes = coreai.quantize(x, scale, torch.int8, self.zero, None, 0)
        return coreai.dequantize(codes, scale, self.zero, None, 0, torch.int8, None)

    def forward(self, x):
        a = self.quantized(torch.conv2d(x, self.first, padding=1), self.scale)
        b = self.quantized(torch.conv2d(a, self.second, padding=1), self.coarse)
        return self.quantized((b - a).flatten(1) @ self.head.t(), self.coarse)


class File(fx.Interpreter):
    """The values of a file with another order of additions, and a mistake in one operator."""

    def __init__(self, module, wrong="", perturbs=True):
        super().__init__(module)
        self.wrong, self.perturbs, self.values = wrong, perturbs, {}
        self.random = torch.Generator().manual_seed(2)

    def call_function(self, target, args, kwargs):
        if target is coreai.quantize.default:
            args = list(args)
            if self.wrong == "scale":
                args[1] = args[1] * 1.02
            if self.wrong == "zero point":
                args[3] = args[3] + 1
            if self.wrong == "half away":
                args[0] = args[0] + args[0].sign() * args[1] / 4 * ((args[0] / args[1]).frac().abs() == 0.5)
        if target is aten.sub.Tensor and self.wrong == "operands":
            args = args[::-1]
        result = super().call_function(target, tuple(args), kwargs)
        if self.perturbs and target in (aten.conv2d.default, aten.matmul.default):
            result = result * (1 + torch.randint(-1, 2, result.shape, generator=self.random) * 2.0**-22)
        return result

    def run_node(self, n):
        result = super().run_node(n)
        if n.op == "call_function":
            self.values[n.name] = result
        return result


@pytest.fixture(scope="module")
def program():
    return torch.export.export(Layers(), (X,))


def compared(program, wrong="", perturbs=True, seen=None):
    """Return the report on a file with a mistake, and the share of its outputs that differs from torch's."""
    module = program.module()
    file = File(module, wrong, perturbs)
    output = file.run(X)
    targets = {node.name: str(node.target) for node in module.graph.nodes}
    values = {name: value for name, value in file.values.items() if seen is None or seen in targets[name]}
    report = blame.compare(Path("file"), program, ((X,), {}), values, [output])
    return report, (output != module(X)).double().mean().item()


@pytest.mark.parametrize("seen", [None, "quantize.default", "conv2d", "nothing"])
def test_ties_that_fall_otherwise_are_explained_whatever_they_grow_to(program, seen):
    report, share = compared(program, seen=seen)
    assert share > 0.5
    assert report.explains([0]), report


@pytest.mark.parametrize("seen", [None, "quantize.default", "conv2d"])
@pytest.mark.parametrize("wrong", ["scale", "zero point", "operands"])
def test_a_wrong_lowering_beside_many_ties_is_a_mismatch(program, wrong, seen):
    report, _ = compared(program, wrong, seen=seen)
    assert not report.explains([0])
    if seen is None:
        assert report.first is not None
        assert report.first.operator == ("aten.sub.Tensor" if wrong == "operands" else "coreai.quantize.default")


def test_rounding_half_away_from_zero_is_a_mismatch(program):
    report, share = compared(program, "half away", perturbs=False)
    assert share > 0
    assert report.first is not None
    assert report.first.operator == "coreai.quantize.default"
    assert compared(program, perturbs=False)[1] == 0


def test_draws_take_a_tie_to_both_of_its_sides(program):
    module = program.module()
    local = Evaluation(module, {})
    local.evaluate(((X,), {}))
    (first, *_) = [node for node in module.graph.nodes if node.target is coreai.quantize.default]
    codes = torch.stack([draw[first.name] for draw in draws(module, ((X,), {}), {}, local, None)]).short()
    is_tie = local.read[first.name].frac().abs() == 0.5
    assert bool((codes.amax(0) - codes.amin(0) == is_tie).all())
    assert bool(is_tie.any())


class Selection(nn.Module):
    def forward(self, scores):
        values, places = torch.topk(scores, 2)
        return values, places * 2


@pytest.mark.parametrize(("places", "is_right"), [([3, 1], True), ([1, 2], True), ([1, 1], False), ([0, 1], False)])
def test_equal_elements_may_be_selected_in_any_order(places, is_right):
    scores = torch.tensor([[0.5, 2.0, 2.0, 2.0]])
    program = torch.export.export(Selection(), (scores,))
    found = torch.tensor([places])
    values = {"getitem_1": found, "getitem": torch.tensor([[2.0, 2.0]])}
    report = blame.compare(Path("file"), program, ((scores,), {}), values, [values["getitem"], found * 2])
    assert report.explains([0, 1]) is is_right


class HalfQuantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.0123, dtype=torch.float16))

    def forward(self, x):
        codes = coreai.quantize(x, self.scale, torch.int8, None, None, 0)
        return coreai.dequantize(codes, self.scale, None, None, 0, torch.int8, None)


def test_quantizers_of_16_bit_floats_are_compared_with_quotients_in_32_bits():
    x = (torch.arange(-2000, 2000) / 1300).half()
    codes = np.clip(np.round(x.numpy().astype(np.float32) / np.float32(np.float16(0.0123))), -128, 127)
    program = torch.export.export(HalfQuantizer(), (x,))
    by_torch = coreai.quantize(x, HalfQuantizer().scale, torch.int8, None, None, 0)
    assert (by_torch.numpy() != codes).any()  # its quotients are rounded to 16 bits first
    for values, agrees in ((codes, True), (by_torch.numpy(), False)):
        held = torch.from_numpy(values).to(torch.int8)
        output = held.half() * HalfQuantizer().scale
        report = blame.compare(Path("file"), program, ((x,), {}), {"quantize": held}, [output], quantize)
        assert report.explains([0]) is agrees
