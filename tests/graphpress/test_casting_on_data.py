"""Casting with ignored ops, and with ranges seen on data; figures of coreai-opt 0.4.0 where it runs the same."""

import pytest
import torch
from torch import nn

from graphpress.casting import cast_fp32_to_fp16, cast_to_16_bit_precision
from graphpress.compiling import CompileError

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        y = self.linear(x)
        return torch.relu(y * 3e4 * 1e4 / 3e8) + y


class Plain(Scaled):
    def forward(self, x):
        y = self.linear(x)
        return torch.relu(y) + y


def dtypes(program):
    calls = [node for node in program.graph.nodes if node.op == "call_function" and "_to_copy" not in str(node.target)]
    return {node.name: node.meta["val"].dtype for node in calls}


def exported(model=None, x=X):
    return torch.export.export((model or Scaled()).eval(), (x,))


@pytest.mark.parametrize("sample", [X, (X,), [X], {"x": X}])
def test_ops_beyond_the_range_on_data_and_their_readers_stay_wide(sample):
    program = cast_fp32_to_fp16(exported(), calibration_data=[sample])
    wide = {name for name, dtype in dtypes(program).items() if dtype is torch.float32}
    assert wide == {"mul_1", "div"}  # mul is in range on this data
    assert torch.isfinite(program.module()(X.half())).all()
    torch.testing.assert_close(program.module()(X.half()).float(), Scaled()(X), rtol=1e-2, atol=1e-2)


def test_without_data_finite_constants_give_no_reason_and_values_overflow():
    program = cast_fp32_to_fp16(exported())
    assert not torch.isfinite(program.module()(X.half())).all()


def test_data_within_the_range_keeps_nothing_wide():
    program = cast_to_16_bit_precision(exported(), calibration_data=iter([1e-6 * X.float(), torch.zeros_like(X)]))
    assert program.module()(X.half()).dtype is torch.float16


@pytest.mark.parametrize(
    "ignored",
    [
        torch.ops.aten.linear,
        torch.ops.aten.linear.default,
        [torch.ops.aten.linear.default, torch.ops.aten.relu],
        lambda node: node.name == "linear",
    ],
)
def test_ignored_ops_stay_wide_and_give_narrow_results(ignored):
    program = cast_fp32_to_fp16(exported(Plain()), ignored_ops=ignored)
    found = dtypes(program)
    assert found["linear"] is torch.float32
    assert found["add"] is torch.float16
    assert (found["relu"] is torch.float32) is isinstance(ignored, list)


def test_what_does_not_fit_is_named():
    with pytest.raises(CompileError, match="ignored_ops has 'linear'"):
        cast_fp32_to_fp16(exported(), ignored_ops=["linear"])
    with pytest.raises(CompileError, match="names y; the program takes x"):
        cast_fp32_to_fp16(exported(), calibration_data=[{"y": X}])
    with pytest.raises(CompileError, match="calibration_data has a int"):
        cast_fp32_to_fp16(exported(), calibration_data=[3])
