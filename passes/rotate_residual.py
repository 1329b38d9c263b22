"""Rotation of residual streams by orthogonal matrices, which spreads outlier channels over all channels.

Transformers that normalize by the root mean square compute the same if an orthogonal matrix Q is folded into all that
writes to the residual stream, and its transpose into all that reads from it (Ashkboos et al., "QuaRot",
arXiv 2404.00456; Liu et al., "SpinQuant", arXiv 2405.16406)::

    n(x Q) = n(x) Q        (x Q) (W Q)^T  =  x W^T        x = u W^T + b  becomes  u (Q^T W)^T + b Q

A randomized Hadamard matrix makes of one large channel many small ones, so that a scale for all channels wastes little.
A layer norm without weights is a norm by the root mean square of its input minus the mean. The subtraction is linear,
so it goes into all that writes to the stream (Ashkboos et al., "SliceGPT", arXiv 2401.15024, section 3.1).
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.facts import NORM_WEIGHTS_FOLDED, RESIDUAL_ROTATED
from graphpress.passes.analysis.residual_stream import Edge, Refusal, ResidualStream, residual_streams
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@frozen
class RotatedStream:
    """A residual stream that was rotated: its channels, and how many weights write to it and read from it."""

    channels: int
    sources: int
    sinks: int

    def __str__(self) -> str:
        return f"rotated a stream of {self.channels} channels, {self.sources} writers and {self.sinks} readers"


@frozen
class UnrotatedStream:
    """The reason why the values around a norm were not rotated."""

    reason: str

    def __str__(self) -> str:
        return f"not rotated: {self.reason}"


@register_pass
@frozen
class RotateResidual(Pass):
    """Fold a random orthogonal matrix into the weights around each residual stream.

    Sound because the analysis of the graph knows every op that touches the stream, and all of them commute with the
    matrix: sums, moves, products with one number per position, norms without weights and sums of squares. A stream
    that anything else touches stays as it is, with a reason in the report. The rotated weights are expressions over the
    original parameters, which can still be trained; embeddings and heads that share a parameter get one each, unless
    both rotate alike.

    Attributes:
        seed: for the signs of the Hadamard matrix, and its part of odd size.
    """

    needs = frozenset({NORM_WEIGHTS_FOLDED})
    gives = frozenset({RESIDUAL_ROTATED})
    effect = CLOSE(rtol=3e-4, atol=1e-5)

    seed: int = 0

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Find the streams, then rotate them one after the other."""
        for found in list(residual_streams(graph)):
            if isinstance(found, Refusal):
                context.count("left")
                context.report(found.norm, UnrotatedStream(found.reason))
            elif found.sinks:
                context.node = found.sinks[0].node
                _rotate(found, random_hadamard(found.channels, self.seed), rewriter)
                context.count("rotated")
                sizes = found.channels, len(found.sources), len(found.sinks)
                context.report(context.node, RotatedStream(*sizes))


def _rotate(stream: ResidualStream, rotation: torch.Tensor, rewriter: Rewriter) -> None:
    name = f"{stream.sinks[0].node.name}_rotation"
    reading = rewriter.add_constant(name, rotation.float())
    writing = reading
    if stream.layer_norms and stream.sources:
        writing = rewriter.add_constant(f"{name}_centred", (rotation - rotation.mean(0)).float())
    for edges, matrix in ((stream.sources, writing), (stream.sinks, reading)):
        for edge in edges:
            _fold(edge, matrix, rewriter)
    for norm in stream.layer_norms:
        attributes = {"normalized_shape": norm.attribute("normalized_shape"), "eps": norm.attribute("eps")}
        operands, types = {"input": norm.operands["input"]}, [norm.result.type]
        made = rewriter.insert_before(norm, "aten.rms_norm", operands, attributes, types=types)
        rewriter.replace(norm, made.result)


def _fold(edge: Edge, matrix: Value, rewriter: Rewriter) -> None:
    node: Node = edge.node
    operand = node.operands[edge.operand]
    value: Value = operand if edge.index is None else operand[edge.index]
    attributes = {"axis": edge.axis % value.tensor_type.rank}
    name = f"{node.name}_rotated_{edge.operand}"
    rotated = rewriter.insert_before(
        node, "fold.rotate_axis", {"input": value, "rotation": matrix}, attributes, name=name
    ).result
    if edge.index is None:
        rewriter.set_operand(node, edge.operand, rotated)
    else:
        rewriter.set_operand(node, edge.operand, [*operand[: edge.index], rotated, *operand[edge.index + 1 :]])


def random_hadamard(channels: int, seed: int = 0) -> Tensor:
    """Return a random orthogonal matrix with entries of similar magnitude, [channels, channels], float64.

    For a power of two it is a Hadamard matrix, scaled to be orthogonal, with random signs of its rows (arXiv
    2404.00456, section 3). With an odd factor it is the Kronecker product with a random orthogonal matrix of that size.
    """
    generator = torch.Generator().manual_seed(seed)
    power = channels & -channels
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < power:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    matrix = matrix / power**0.5
    if power < channels:
        matrix = torch.kron(matrix, _random_orthogonal(channels // power, generator))
    signs = torch.randint(0, 2, (channels, 1), generator=generator, dtype=torch.float64) * 2 - 1
    return signs * matrix


def _random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Return an orthogonal matrix of uniform distribution (Mezzadri, arXiv math-ph/0609050)."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).contiguous()
