"""Ops that a converter lacks or computes otherwise, converted and compared with torch itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphpress.backends import coreai, coreml
from graphpress.backends.coreai import program
from graphpress.backends.errors import ConversionError

from .every_op import TOKENS, Lambda
from .features import IMAGE

POSITIVE = IMAGE.abs() + 0.1


def resized(x):
    odd = (5, 13)
    return (
        F.interpolate(x, odd),
        F.interpolate(x, scale_factor=1.7),
        F.interpolate(x, scale_factor=0.6),
        F.interpolate(x.flatten(2), 100),
        F.interpolate(x[None], (5, 13, 9)),
        F.interpolate(x, odd, mode="nearest-exact"),
        F.interpolate(x, odd, mode="bicubic"),
        F.interpolate(x[None], (5, 13, 9), mode="trilinear"),
        F.interpolate(x, odd, mode="bilinear", antialias=True),
    )


def pooled(x):
    return (
        F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        F.avg_pool2d(x, 3, 2, ceil_mode=True),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
        F.avg_pool1d(x.flatten(2), 3, 2, 1, count_include_pad=False),
        F.avg_pool3d(x[None], 3, 2, 1, count_include_pad=False),
        F.adaptive_avg_pool2d(x.contiguous(memory_format=torch.channels_last), 1),
    )


def elementwise(x):
    y = x.flip(1)
    gaps = torch.where(x > 0, x, torch.nan)
    return (
        torch.hypot(x, y),
        torch.logaddexp(x, y),
        torch.fmax(gaps, y),
        torch.fmin(gaps, y),
        gaps.isnan(),
        gaps.nan_to_num(0.5),
        F.hardshrink(x),
        F.logsigmoid(x),
        F.threshold(x, 0.1, 0.0),
        torch.where(x > 0, x, 0.0),
        torch.where(x > 0, 1.0, x),
        torch.lerp(x, y, 0.3) + torch.lerp(x, y, 0.7),
        torch.clamp(x, y[:1], y[:1] + 1),
        x.asinh() + (x.abs() + 1).acosh() + x.trunc(),
    )


def cast(x):
    return (3 * x).int().float(), (3 * x).int(), x.bool().float(), (3 * x).to(torch.int8).half().float()


def combined(x):
    a, b = x > 0, x < 1
    return a & b, a | b, a ^ b


def reduced(x):
    means = torch.var_mean(x, 1), torch.std_mean(x, (2, 3))
    return x.sum(), x.max(), x.amax(), x.amin(), x.argmin(1), *(part for pair in means for part in pair)


def normed(x):
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval()
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(2.0)
    return norm(x), F.rms_norm(x, (8,)), F.cosine_similarity(x, x.flip(2), dim=1)


def rearranged(x):
    around = F.pad(x, (1, 2, 0, 1), mode="circular"), F.pad(x, (-1, 2))
    views = x.diagonal(0, 2, 3), x.diagonal(-2, 1, 3), x.unfold(2, 3, 2), x.diff(dim=1)
    ordered = x.sort(1)[0], x.sort(-1, descending=True)[0]
    replaced = x.slice_scatter(torch.ones(2, 2, 8, 8), 1, 0, 2), x.select_scatter(torch.ones(2, 8, 8), 1, 0)
    replaced += x.select_scatter(x[:, :, 0], -2, -1), (x > 0).select_scatter(x[:, 1] > 1, 1, 2)
    return *around, *views, *ordered, *replaced, F.one_hot((x[:, 0, 0] > 0).long(), 3).float()


def scattered(x):
    places = torch.tensor([1, 0, 1, 3, 2, 1, 0, 3]).reshape(1, 1, 8, 1).expand(2, 4, 8, 8)
    rows = torch.tensor([2, 0, 2])
    return (
        x.scatter_add(-2, places, x.flip(1)),
        x[:, :, :5].scatter_add(1, places[:, :, :5] % 4, x),
        x.index_add(1, rows, x[:, :3], alpha=0.5),
        torch.zeros(3, 4, 8, 8).index_add(0, rows[:2], x),
        x.index_copy(-3, rows[:2], x[:, 2:]),
        x.scatter(2, torch.zeros(2, 4, 1, 8, dtype=torch.long), x[:, :, :1] + 1),
        x.gather(-2, torch.ones(2, 4, 3, 8, dtype=torch.long)),
    )


def running(x):
    return x.cumsum(-2), x.cumprod(-2), x[..., :5].cumprod(1), x.prod(-2), x[..., :5].prod(-1, True), x[0, 0, 0].prod()


def in_the_middle(x):
    return *x.median(-2), x[:, :3].median(1, keepdim=True)[0]


def multiplied(tokens):
    heads = tokens.reshape(2, 5, 4, 2).transpose(1, 2)
    shared = F.scaled_dot_product_attention(heads, heads[:, :2], heads[:, 2:], enable_gqa=True)
    weight = torch.arange(3 * 8 * 8.0).reshape(3, 8, 8) / 64 - 1
    products = torch.tensordot(tokens, tokens, ([2], [2])), torch.kron(tokens[0], tokens[0]), tokens[0] @ tokens[0, 0]
    return shared, F.bilinear(tokens, tokens.flip(1), weight), *products


BACKENDS = {"coreai": (coreai, "m.aimodel"), "coreml": (coreml, "m.mlpackage")}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "function",
    [
        *(resized, pooled, elementwise, cast, combined, reduced, normed, rearranged),
        *(scattered, running, in_the_middle, multiplied),
    ],
)
def test_what_a_converter_lacks_or_has_wrong_is_spelled_out(backend, function, tmp_path):
    module, name = BACKENDS[backend]
    model, inputs = Lambda(function), (TOKENS if function is multiplied else IMAGE,)
    module.convert(model, tmp_path / name, inputs)
    report = module.check(tmp_path / name, model, inputs)
    assert report.max_error <= 1e-5, report


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_cannot_be_spelled_out_is_refused_with_its_place(backend, tmp_path):
    module, name = BACKENDS[backend]
    with pytest.raises(ConversionError, match=r"has no lowering for aten\.kthvalue.*every_op\.py"):
        module.convert(Lambda(lambda x: x.kthvalue(2, 1)[0]), tmp_path / name, (IMAGE,))


def test_the_second_opinion_knows_a_wrong_spelling(tmp_path, monkeypatch):
    wrong = {**program._SPELLED_OUT, torch.ops.aten.hypot.default: lambda a, b: a.abs() + b.abs()}
    monkeypatch.setattr(program, "_SPELLED_OUT", wrong)
    model = Lambda(lambda x: torch.hypot(x, POSITIVE))
    coreai.convert(model, tmp_path / "m.aimodel", (IMAGE,))
    assert not coreai.check(tmp_path / "m.aimodel", model, (IMAGE,)).ok


def steps(x):
    """A recurrence whose outputs are written one after the other."""
    outputs, state = torch.zeros_like(x), x[:, 0]
    for step in range(x.shape[1]):
        state = 0.5 * state + x[:, step]
        outputs[:, step] = state
    return outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32])
def test_writing_one_step_updates_one_slice(dtype, tmp_path):
    x = (3 * IMAGE).to(dtype)
    model = Lambda(lambda x: steps(x).to(dtype))
    info = coreai.convert(model, tmp_path / "m.aimodel", (x,))
    assert info.operations["slice_update"] == x.shape[1]
    assert not {"broadcasting_where", "broadcast_in_dims"} & set(info.operations)
    assert coreai.check(tmp_path / "m.aimodel", model, (x,)).ok


def test_a_maximum_of_sizes_that_their_ranges_decide_is_no_op(tmp_path):
    table = torch.arange(64.0)
    model = Lambda(lambda x: x + table[torch.sym_max(0, 64 - x.shape[1]) :][: x.shape[1], None])
    x = torch.arange(24.0).reshape(2, 4, 3)
    shapes = ({1: torch.export.Dim("length", min=4, max=60)},)
    coreai.convert(model, tmp_path / "m.aimodel", (x,), dynamic_shapes=(shapes,))
    for inputs in (x, torch.arange(42.0).reshape(2, 7, 3)):
        assert coreai.check(tmp_path / "m.aimodel", model, (inputs,)).max_error == 0


@pytest.mark.parametrize("extreme", [torch.sym_max, torch.sym_min])
@pytest.mark.parametrize("bound", [3, 61])
def test_an_extreme_of_sizes_is_replaced_by_the_operand_that_it_is(extreme, bound):
    model = Lambda(lambda x: x.new_full((x.shape[1],), extreme(x.shape[1] + 0, bound) * 1.0))
    shapes = ({1: torch.export.Dim("length", min=4, max=60)},)
    program = coreai.program.decompose(torch.export.export(model, (torch.ones(2, 16),), dynamic_shapes=(shapes,)))
    assert not program.graph.find_nodes(op="call_function", target=extreme)
    assert float(program.module()(torch.ones(2, 16))[0]) == extreme(16, bound)


def test_the_last_position_of_a_dynamic_dim_is_written(tmp_path):
    model = Lambda(lambda x: x.select_scatter(x[:, 0], 1, -1))
    x = torch.arange(24.0).reshape(2, 4, 3)
    shapes = ({1: torch.export.Dim("length", min=2, max=9)},)
    coreai.convert(model, tmp_path / "m.aimodel", (x,), dynamic_shapes=(shapes,))
    for inputs in (x, torch.arange(42.0).reshape(2, 7, 3)):
        assert coreai.check(tmp_path / "m.aimodel", model, (inputs,)).max_error == 0
