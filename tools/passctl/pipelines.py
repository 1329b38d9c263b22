"""The PIPELINE argument: pipeline text, or a standard pipeline with its configs; and its initial graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from graphpress import pipelines
from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph
from graphpress.passes.analysis.facts import QUANTIZERS_INSERTED
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Fact, Pipeline, PipelineSyntaxError, Runner, registered_passes
from graphpress.passes.framework.facts import fact_set
from graphpress.quantization import Quantizer
from graphpress.quantization.capture import capture
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.parameters import AttachParameters
from graphpress.tools.passctl.compression import Recipe
from graphpress.tools.passctl.console import PassctlError
from graphpress.tools.passctl.models import Subject

_STANDARD: dict[str, Callable[[Recipe], Pipeline]] = {
    "prepare": lambda recipe: pipelines.prepare(recipe.quantization),
    "finalize": lambda recipe: pipelines.finalize(),
    "prune": lambda recipe: pipelines.prune(recipe.pruning),
    "palettize": lambda recipe: pipelines.palettize(recipe.palettization),
    "joint": lambda recipe: pipelines.joint(recipe.palettization, recipe.quantization),
}


def resolve_pipeline(text: str, config_file: Path | None = None, assumed: Sequence[str] = ()) -> Pipeline:
    """Return the pipeline for `text`.

    Args:
        text: the text form of a pipeline, or the name of a standard one.
        config_file: YAML with the configs of a standard pipeline.
        assumed: names of facts that hold for the graph before the first step.

    Raises:
        PassctlError: for configs that the pipeline does not accept, or unknown facts.
        PipelineError, SpecError: from the parser and the configs.
    """
    facts = [_fact(name) for name in assumed]
    if text in _STANDARD:
        recipe = Recipe.read(config_file) if config_file is not None else Recipe()
        pipeline = _STANDARD[text](recipe)
        return Pipeline(pipeline, assume={*pipeline.assume, *facts}) if facts else pipeline
    if config_file is not None:
        raise PassctlError(f"--config belongs to the standard pipelines {', '.join(_STANDARD)}, not to {text!r}")
    try:
        return Pipeline.parse(text, assume=facts)
    except PipelineSyntaxError as error:
        if near := suggestion(text, _STANDARD):
            error.add_note(f"of the standard pipelines{near.replace(';', ',')}")
        raise


def _fact(name: str) -> Fact:
    known = {
        fact.name: fact
        for cls in registered_passes()
        for kind in ("needs", "gives", "breaks")
        if not isinstance(facts := getattr(cls, kind), property)
        for fact in fact_set(facts)
    }
    if name not in known:
        near = suggestion(name, known) or f"; accepted: {', '.join(sorted(known))}"
        raise PassctlError(f"no pass needs or gives a fact {name!r}{near}")
    return known[name]


def starting_graph(subject: Subject, pipeline: str | None, config_file: Path | None) -> Graph:
    """Return the graph of `subject` on which the pipeline runs.

    The standard pipeline `finalize` converts quantizers, so a model without any is prepared first, with the config of
    the file or the default one, and calibrated on its example inputs only.

    Raises:
        GraphpressError: if the model cannot be captured or prepared.
    """
    graph = subject.graph()
    if pipeline != "finalize" or any(node.op.name == "quant.fake_quantize" for node in graph.nodes):
        return graph
    config = None if config_file is None else Recipe.read(config_file).quantization
    model, example = subject.model(), subject.example_inputs
    prepared = Quantizer(model, config).prepare(example)
    quantizers = {each.name: each for each in prepared.modules() if isinstance(each, FakeQuantizeImplBase)}
    # Preparing is deterministic, so the quantizers of the prepared module match this graph.
    result = Runner().run(capture(model, example), pipelines.prepare(config), in_place=True)
    attach = Pipeline(FoldConstants(), AttachParameters(quantizers), assume=[QUANTIZERS_INSERTED])
    return Runner().run(result.graph, attach, in_place=True).graph
