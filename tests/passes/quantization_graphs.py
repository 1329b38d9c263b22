"""What the tests of the quantization passes share: running passes one by one, and reading off what was decided."""

from __future__ import annotations

import torch

from graphpress.ir.dtypes import DType
from graphpress.passes.analysis.fusion import FusionGroup
from graphpress.passes.analysis.quantization_points import QuantizationPoints, Side
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.config import QuantizerConfig
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.framework.testing import f32
from graphpress.passes.insert_fake_quant import InsertFakeQuant
from graphpress.passes.share_quantizers import ShareQuantizers


def run(graph, *passes):
    """What `passes` make of a copy of `graph`; facts they need are assumed."""
    needs = {fact for pass_ in passes for fact in pass_.needs}
    return Runner().run(graph, Pipeline(*passes, assume=needs)).graph


def assigned(graph, config=None, **options):
    return run(graph, AnnotateFusion(), AssignQuantizers(config or QuantizerConfig(), **options))


def shared(graph, config=None, **options):
    return run(graph, AnnotateFusion(), AssignQuantizers(config or QuantizerConfig(), **options), ShareQuantizers())


def inserted(graph, config=None):
    return run(shared(graph, config), InsertFakeQuant())


def groups(graph):
    """The node names of every fusion group, in order."""
    found = {}
    for node in graph.nodes:
        note = node.annotation(FusionGroup)
        if note is not None:
            found.setdefault(note.anchor, []).append(node.name)
    return list(found.values())


def points(graph):
    """Every point as (node, place) -> quantizer; a place is an operand, `operand[i]`, `output` or `output[i]`."""
    found = {}
    for node in graph.nodes:
        for point in getattr(node.annotation(QuantizationPoints), "points", ()):
            place = point.operand if point.side is Side.INPUT else "output"
            if point.index is not None and (point.side is Side.INPUT or len(node.results) > 1):
                place += f"[{point.index}]"
            found[node.name, place] = point.quantizer
    return found


def places(graph):
    return sorted(points(graph))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image(b, name="x", channels=4):
    return b.input(name, f32[1, channels, 8, 8])


def convolution(b, x, name=None, outputs=4, **attributes):
    """A convolution of 3x3 with a weight of its own, called ``<name>.weight``."""
    inputs = x.tensor_type.shape[1]
    weight = b.constant(f"{name or 'conv'}.weight", random(outputs, inputs, 3, 3))
    bias = b.constant(f"{name or 'conv'}.bias", random(outputs))
    return b.aten.conv2d(x, weight, bias, name=name, padding=[1, 1], **attributes)


INT8 = DType.INT8
