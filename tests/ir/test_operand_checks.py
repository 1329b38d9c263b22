"""Operands that torch's kernels would read past are refused, where the graph is verified and where it runs."""

import pytest
import torch

from graphpress.ir.interpreter import InterpreterError, run
from graphpress.ir.operand_checks import operand_check
from graphpress.ir.ops import OpError, lookup_op
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.verifier import VerificationError, verify

NORM = "aten._native_batch_norm_legit_no_training"


def _norm(channels):
    return parse_graph(
        f"graph @main {{ input %x: f32[1, 4, 2] input %m: f32[{channels}] "
        f"%y: (f32[1, 4, 2], f32[0], f32[0]) = {NORM}(input=%x, running_mean=%m, running_var=%m) "
        "{weight=none, bias=none, momentum=0.1, eps=1e-05} return %y#0 }"
    )


def test_a_batch_norm_with_too_few_statistics_is_refused():
    with pytest.raises(VerificationError, match="running_mean has the shape"):
        verify(_norm(1))


def test_a_run_checks_the_tensors_and_not_what_the_graph_says_of_them():
    text = str(_norm(4)).replace("input %m: f32[4]", "input %n: f32[1]")
    lying = parse_graph(text.replace("  %y:", "  %m: f32[4] = aten.relu(self=%n)\n  %y:"))
    with pytest.raises(InterpreterError, match=r"running_mean has the shape \[1\]"):
        run(lying, [torch.zeros(1, 4, 2), torch.ones(1)])


def test_a_batch_norm_of_a_model_runs_as_in_torch():
    x, m = torch.randn(1, 4, 2), torch.rand(4)
    expected = torch.nn.functional.batch_norm(x, m, m)
    assert torch.equal(run(_norm(4), [x, m])[0], expected)


@pytest.mark.parametrize(
    ("name", "bound", "fault"),
    [
        (
            "scaled_dot_product_attention",
            {"query": (1, 1, 4, 8), "key": (1, 1, 9, 8), "value": (1, 1, 2, 8)},
            "positions",
        ),
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            {"query": (9, 2, 4, 8), "key": (1, 2, 4, 8), "value": (1, 2, 4, 8)},
            "batches",
        ),
        ("_weight_norm_interface", {"v": (40, 4), "g": (1,), "dim": 1}, "elements"),
        ("_weight_norm", {"v": (0, 4), "g": (0, 4)}, "no elements"),
        ("_weight_norm", {"v": (4, 4), "g": (1,)}, "elements"),
        ("_fft_r2c", {"self": (1, 8), "dim": [1, 8]}, "axes"),
        ("_fft_c2c", {"self": (1, 8), "dim": [1, 1]}, "axes"),
        ("_upsample_bilinear2d_aa", {"self": (1, 1, 2, 2), "output_size": [4, 4], "scales_h": 1e-12}, "scaled"),
        ("_upsample_bicubic2d_aa.vec", {"input": (1, 1, 2, 2), "scale_factors": [1e-12, 1e-12]}, "scaled"),
    ],
)
def test_operands_that_a_kernel_would_read_past_are_refused(name, bound, fault):
    check = operand_check(f"aten.{name}")
    assert fault in check({k: torch.zeros(v) if isinstance(v, tuple) else v for k, v in bound.items()})


@pytest.mark.parametrize(("op", "attribute"), [("diff", "n"), ("combinations", "r")])
def test_an_op_that_loops_as_often_as_a_number_says_is_bounded(op, attribute):
    def graph(size, number):
        node = f"%y: f32[{size}] = aten.{op}(self=%x) {{{attribute}={number}}}"
        return parse_graph(f"graph @main {{ input %x: f32[200] {node} return %y }}")

    with pytest.raises(VerificationError, match=f"{attribute} is 1000000000; accepted: 100"):
        verify(graph(1, 10**9))
    if op == "diff":
        verify(graph(190, 10))
        x = torch.rand(200)
        assert torch.equal(run(graph(190, 10), [x])[0], x.diff(n=10))


def test_an_op_that_ends_the_process_without_operands_is_not_accepted():
    with pytest.raises(OpError, match="_stack is not run from files"):
        lookup_op("aten._stack")


def test_operands_of_models_are_accepted():
    image, heads = torch.rand(1, 3, 9, 7), torch.rand(1, 4, 5, 8)
    for size, factors in (([18, 14], [2.0, 2.0]), ([4, 3], [0.5, 0.5]), ([5, 9], [None, None])):
        bound = {"self": image, "output_size": size, "scales_h": factors[0], "scales_w": factors[1]}
        assert operand_check("aten._upsample_bilinear2d_aa")(bound) is None
    attention = {"query": heads, "key": heads[:, :2], "value": heads[:, :2], "enable_gqa": True}
    assert operand_check("aten.scaled_dot_product_attention")(attention) is None
    assert operand_check("aten._weight_norm_interface")({"v": torch.rand(4, 3), "g": torch.rand(4, 1)}) is None
    assert operand_check("aten._fft_r2c")({"self": image, "dim": [3, 2]}) is None
    assert operand_check("prims.fft_r2c")({"self": image, "dim": [3]}) is None
    assert operand_check("aten.add.Tensor") is operand_check("prims.add") is None
