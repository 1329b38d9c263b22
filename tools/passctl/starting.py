"""The graph a pipeline starts from: the model as captured, or, for `finalize`, as calibrated."""

from __future__ import annotations

from pathlib import Path

from graphpress import pipelines
from graphpress.ir.graph import Graph
from graphpress.passes.facts import QUANTIZERS_INSERTED
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, Runner
from graphpress.quantization import Quantizer
from graphpress.quantization.capture import capture
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.parameters import AttachParameters
from graphpress.tools.passctl.models import Subject
from graphpress.tools.passctl.recipe import Recipe


def starting_graph(subject: Subject, pipeline: str | None, config_file: Path | None) -> Graph:
    """The graph of `subject` that the pipeline of this text or name runs over.

    The standard pipeline `finalize` converts quantizers, so a model without any is prepared for it, with the config of
    the file or the default one, and its example inputs as the only calibration data.

    Raises:
        GraphpressError: when the model cannot be captured or prepared.
    """
    graph = subject.graph()
    if pipeline != "finalize" or any(node.op.name == "quant.fake_quantize" for node in graph.nodes):
        return graph
    config = None if config_file is None else Recipe.read(config_file).quantization
    module, example = subject.module(), subject.example_inputs
    prepared = Quantizer(module, config).prepare(example)
    quantizers = {each.name: each for each in prepared.modules() if isinstance(each, FakeQuantizeImplBase)}
    # Preparing is deterministic, so the quantizers of the prepared module are those of this graph.
    result = Runner().run(capture(module, example), pipelines.prepare(config), in_place=True)
    attach = Pipeline(FoldConstants(), AttachParameters(quantizers), assume=[QUANTIZERS_INSERTED])
    return Runner().run(result.graph, attach, in_place=True).graph
