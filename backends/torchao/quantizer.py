"""`GraphpressQuantizer`, which annotates an exported fx module, and the graph that it decides on."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen
from torch import fx
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer, SharedQuantizationSpec
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from graphpress.backends.torchao.specs import torchao_spec
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.torch.body_reader import BodyReader, add_output
from graphpress.ir.torch.types import type_of
from graphpress.passes.analysis.facts import CANONICAL
from graphpress.passes.analysis.fusion import FusionGroup
from graphpress.passes.analysis.quantization_points import Point, QuantizationPoints, Side
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.config import QuantizerConfig
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.share_quantizers import ShareQuantizers

Place = fx.Node | tuple[fx.Node, fx.Node]  # an output, or the edge from a node to one that reads it


class GraphpressQuantizer(Quantizer):
    """A quantizer for `prepare_pt2e` and `prepare_qat_pt2e`, driven by a graphpress config.

    Fusion groups, known ranges and shared quantizers are determined on the whole graph, as in
    `graphpress.quantization`.

    Args:
        config: the quantization config; by default 8 bits for weights and activations.
        is_qat: True for `prepare_qat_pt2e`, which needs fake-quantizers instead of observers.
    """

    def __init__(self, config: QuantizerConfig | None = None, *, is_qat: bool = False):
        super().__init__()
        self._config = config or QuantizerConfig()
        self._is_qat = is_qat

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate the nodes of `model` for torchao.

        Raises:
            TorchaoError: if torchao's flow cannot express the config.
            QuantizationError, UnmatchedConfigError: if the config does not fit the model.
        """
        read = read_module(model)
        pipeline = Pipeline(AnnotateFusion(), AssignQuantizers(self._config), ShareQuantizers(), assume=[CANONICAL])
        Runner(verify=False).run(read.graph, pipeline, in_place=True)
        first: dict[str, Place] = {}  # the first place of each quantizer; later places share its observer
        for node_annotation in _annotations(read):
            fx_node, points = node_annotation
            inputs, output = {}, None
            for place, point in points:
                name = point.quantizer.name
                if name in first:
                    spec = SharedQuantizationSpec(first[name])
                else:
                    spec, first[name] = torchao_spec(point.quantizer, is_qat=self._is_qat), place
                if isinstance(place, tuple):
                    inputs[place[0]] = spec
                else:
                    output = spec
            fx_node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                input_qspec_map=inputs, output_qspec=output, _annotated=True
            )
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Do nothing: everything is checked while annotating."""


def _annotations(read: ReadGraph) -> Iterator[tuple[fx.Node, list[tuple[Place, Point]]]]:
    """Yield each fx node that belongs to a group or has points, with the places of its points."""
    for node in read.graph.nodes:
        note = node.annotation(QuantizationPoints)
        if note is None and node.annotation(FusionGroup) is None:
            continue
        by_node: dict[fx.Node, dict[Place, Point]] = {read.source_of(node): {}}
        for point in note.points if note is not None else ():
            value = point.value(node)
            if point.side is Side.OUTPUT:
                made = read.source(value)
                by_node.setdefault(made, {})[made] = point
            else:
                reader = read.source_of(node)
                edge = (read.source(value), reader)
                by_node[reader].setdefault(edge, point)
        for fx_node, points in by_node.items():
            yield fx_node, list(points.items())


@frozen
class ReadGraph:
    """A graph for analysis only, in which in-place writes are kept.

    Attributes:
        graph: the graph; its nodes have the names of the fx nodes.
        sources: the fx node of each value, by the value's ``id``.
    """

    graph: Graph
    sources: dict[int, fx.Node]

    def source(self, value: Value) -> fx.Node:
        """Return the fx node that computes `value`."""
        return self.sources[id(value)]

    def source_of(self, node: Node) -> fx.Node:
        """Return the fx node of `node`."""
        first = self.source(node.results[0])
        return first.args[0] if len(node.results) > 1 else first  # type: ignore[return-value]


def read_module(module: fx.GraphModule) -> ReadGraph:
    """Import the graph of ``torch.export.export(...).module()``; the module is not changed."""
    graph = Graph("main")
    reader = BodyReader(graph, module, {}, allow_writes=True)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            reader.bind(node, graph.add_input(node.name, type_of(value)).value)
    # The guards on the inputs are an unused module.
    nodes = [node for node in module.graph.nodes if node.op != "call_module" or node.users]
    for item in reader.read(nodes):
        add_output(graph, item)
    sources: dict[int, fx.Node] = {}
    for node in nodes:
        value = reader.resolve(node) if node.op != "output" else None
        if isinstance(value, Value):
            sources.setdefault(id(value), node)
    return ReadGraph(graph, sources)
