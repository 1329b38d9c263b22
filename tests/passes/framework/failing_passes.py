"""Passes with faults, and a graph large enough to lose one in."""

from __future__ import annotations

import torch
from attrs import frozen

from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.framework import CLOSE, Pass, RewritePass, register_pass, rule
from graphpress.passes.framework.patterns import Any, Op
from graphpress.passes.framework.testing import GraphBuilder, f32


@register_pass
@frozen
class SampleWrongSign(FoldBatchNorm):
    """Folds batch norms, and negates the shift of those behind strided convolutions."""

    name = "sample-wrong-sign"

    def _fold_into_previous(self, norm, rewriter):
        conv = norm.operand("input").node
        FoldBatchNorm._fold_into_previous(self, norm, rewriter)
        if conv.op.short_name == "conv2d" and conv.attribute("stride") == (2, 2):
            bias = conv.operand("bias")
            negated = rewriter.insert_before(conv, "aten.neg", {"self": bias})
            rewriter.set_operand(conv, "bias", negated.result)


@rule(Op("aten.mul.Tensor", Op("aten.neg", Any("x")), Op("aten.neg", Any("y"))))
def two_signs(match, rewriter):
    """Minus by minus is plus."""
    return rewriter.insert_before(match.root, "aten.mul.Tensor", {"self": match["x"], "other": match["y"]})


@rule(Op("aten.add.Tensor", Any("x"), Op("aten.neg", Any("y"))))
def one_sign(match, rewriter):
    """Forgets the minus."""
    return rewriter.insert_before(match.root, "aten.add.Tensor", {"self": match["x"], "other": match["y"]})


@register_pass
@frozen
class SampleWrongRule(RewritePass):
    """Two rules, one of them wrong."""

    effect = CLOSE()
    rules = (two_signs, one_sign)


@register_pass
@frozen
class SampleCrash(Pass):
    """Annotates nothing, renames nothing, and fails at the first node of an op."""

    op: str = "neg"

    def run(self, graph, rewriter, context):
        for node in graph.nodes:
            context.node = node
            if node.op.short_name == self.op:
                raise ZeroDivisionError(f"cannot bear {self.op}")


@register_pass
@frozen
class SampleOptionCrash(SampleCrash):
    """Has an option more."""

    name = "sample-option-crash"
    extra: int = 3


def conv_blocks(count, strided=(), channels=8, size=16):
    """`count` blocks of convolution, batch norm, relu; the convolutions at `strided` have stride 2. A skip around every
    second block that has none."""
    b = GraphBuilder()
    value = b.input("x", f32[1, channels, size, size])
    before = None
    for number in range(count):
        skip, before = before, value
        generator = torch.Generator().manual_seed(number)
        weight = b.constant(f"conv{number}.weight", torch.randn(channels, channels, 3, 3, generator=generator) / 8)
        parts = [
            b.constant(f"bn{number}.{part}", torch.rand(channels, generator=generator) + 0.5)
            for part in ("weight", "bias", "running_mean", "running_var")
        ]
        stride = (2, 2) if number in strided else (1, 1)
        value = b.node(
            "aten.conv2d", value, weight, name=f"conv{number}", stride=stride, padding=(1, 1), dilation=(1, 1), groups=1
        ).result
        value = b.aten.batch_norm(value, *parts, False, 0.1, 1e-5, False, name=f"norm{number}")
        value = b.aten.relu(value, name=f"relu{number}")
        if number % 2 and skip is not None and not {number, number - 1} & set(strided):
            value = b.aten.add.Tensor(value, skip, name=f"skip{number}")
    return b.outputs(value)
