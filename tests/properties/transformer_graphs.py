"""Generated graphs of transformer blocks: norms in every spelling, attention with shared key-value heads, gated MLPs.

Weights of norms differ by two orders of magnitude between channels, as those of trained models do.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from graphpress.ir.graph import Graph, Value
from graphpress.passes.framework.testing import GraphBuilder, f32

BATCH, TOKENS, CHANNELS, HEADS = 2, 3, 8, 4
NORMS = ("layer", "rms", "bare layer", "bare rms", "written out", "written out with bias")


class Blocks:
    """Builds blocks over one residual stream, with seeded weights."""

    def __init__(self, seed: int = 0, has_matrices: bool = False):
        self.has_matrices = has_matrices
        self.build = GraphBuilder()
        self.generator = torch.Generator().manual_seed(seed)
        self.count = 0

    def constant(self, *shape: int, scale: float = 1.0) -> Value:
        self.count += 1
        tensor = torch.randn(shape, generator=self.generator) * scale
        return self.build.constant(f"c{self.count}", tensor)

    def gain(self, channels: int = CHANNELS) -> Value:
        self.count += 1
        exponents = torch.randn(channels, generator=self.generator)
        return self.build.constant(f"gain{self.count}", torch.exp(1.5 * exponents))

    def linear(self, x: Value, outputs: int, bias: bool = False) -> Value:
        inputs = int(x.tensor_type.shape[-1])
        if self.has_matrices:
            return self.product(x, inputs, outputs, bias)
        extra = [self.constant(outputs, scale=0.3)] if bias else []
        return self.build.aten.linear(x, self.constant(outputs, inputs, scale=inputs**-0.5), *extra)

    def product(self, x: Value, inputs: int, outputs: int, bias: bool) -> Value:
        """A layer as a product with a matrix that is not transposed, as GPT-2 has them."""
        aten, matrix = self.build.aten, self.constant(inputs, outputs, scale=inputs**-0.5)
        if not bias:
            return aten.matmul(x, matrix)
        rows = aten.reshape(x, [BATCH * TOKENS, inputs])
        return aten.reshape(aten.addmm(self.constant(outputs, scale=0.3), rows, matrix), [BATCH, TOKENS, outputs])

    def norm(self, x: Value, kind: str) -> Value:
        aten = self.build.aten
        match kind:
            case "layer":
                return aten.layer_norm(x, [CHANNELS], self.gain(), self.constant(CHANNELS))
            case "bare layer":
                return aten.layer_norm(x, [CHANNELS])
            case "rms":
                return aten.rms_norm(x, [CHANNELS], self.gain(), 1e-6)
            case "bare rms":
                return aten.rms_norm(x, [CHANNELS], None, 1e-6)
        mean = aten.mean.dim(aten.pow.Tensor_Scalar(x, 2), [-1], True)
        normed = aten.mul.Tensor(x, aten.rsqrt(aten.add.Tensor(mean, 1e-6)))
        scaled = aten.mul.Tensor(self.gain(), normed)
        return scaled if kind == "written out" else aten.add.Tensor(scaled, self.constant(CHANNELS))

    def heads(self, x: Value, count: int) -> Value:
        shaped = self.build.aten.reshape(x, [BATCH, TOKENS, count, CHANNELS // HEADS])
        return self.build.aten.transpose.int(shaped, 1, 2)

    def attention(self, x: Value, kv_heads: int, is_whole: bool, bias: bool) -> Value:
        aten, size = self.build.aten, CHANNELS // HEADS
        query = self.heads(self.linear(x, CHANNELS, bias), HEADS)
        key, value = (self.heads(self.linear(x, kv_heads * size, bias), kv_heads) for _ in range(2))
        if kv_heads < HEADS:
            key, value = (
                aten.reshape(
                    aten.expand(aten.unsqueeze(each, 2), [BATCH, kv_heads, HEADS // kv_heads, TOKENS, size]),
                    [BATCH, HEADS, TOKENS, size],
                )
                for each in (key, value)
            )
        if is_whole:
            mixed = aten.scaled_dot_product_attention(query, key, value)
        else:
            scores = aten.matmul(query, aten.transpose.int(key, 2, 3))
            mixed = aten.matmul(aten.softmax.int(scores, -1), value)
        joined = aten.reshape(aten.transpose.int(mixed, 1, 2), [BATCH, TOKENS, CHANNELS])
        return self.linear(joined, CHANNELS, bias)

    def gated(self, x: Value, bias: bool) -> Value:
        aten = self.build.aten
        gate = aten.silu(self.linear(x, 12, bias))
        return self.linear(aten.mul.Tensor(gate, self.linear(x, 12, bias)), CHANNELS, bias)

    def plain(self, x: Value, bias: bool) -> Value:
        return self.linear(self.build.aten.gelu(self.linear(x, 12, bias)), CHANNELS, bias)


@st.composite
def transformer_graphs(draw: st.DrawFn, norms: tuple[str, ...] = NORMS, spoils: bool = True) -> Graph:
    """Up to three blocks; where `spoils`, some norms are read by other ops too, or come after the sum, and layers may
    be products with matrices, which have no place for a bias.
    """
    blocks = Blocks(draw(st.integers(0, 99)), spoils and draw(st.booleans()))
    stream = blocks.build.input("x", f32[BATCH, TOKENS, CHANNELS])
    if not spoils or draw(st.booleans()):
        stream = blocks.linear(stream, CHANNELS, draw(st.booleans()))
    extra = []
    for _ in range(draw(st.integers(1, 3))):
        normed = blocks.norm(stream, draw(st.sampled_from(norms)))
        if spoils and draw(st.integers(0, 4)) == 0:
            extra.append(blocks.build.aten.relu(normed))
        bias = draw(st.booleans())
        match draw(st.sampled_from(("attention", "gated", "plain"))):
            case "attention":
                made = blocks.attention(normed, draw(st.sampled_from((1, 2, 4))), draw(st.booleans()), bias)
            case "gated":
                made = blocks.gated(normed, bias)
            case _:
                made = blocks.plain(normed, bias)
        is_post = spoils and draw(st.integers(0, 4)) == 0
        stream = blocks.build.aten.add.Tensor(normed if is_post else stream, made)
    head = blocks.linear(blocks.norm(stream, draw(st.sampled_from(norms))), 5)
    return blocks.build.outputs(head, *extra)
