"""The standard rules and clean-ups cost time linear in the graph: counted in calls, which no machine's load changes."""

from __future__ import annotations

import sys

import pytest

from graphpress.ir import from_module
from graphpress.passes.framework import Pipeline, Runner
from graphpress.tools.models import MODELS
from graphpress.tools.passctl.scaling import side_by_side

PIPELINES = ["canonicalize,annotate-fusion", "canonicalize,fold-batch-norm,fold-constants", "repeat(cse,dce)"]


@pytest.fixture(scope="module", params=["small_resnet", "small_transformer"])
def graph(request):
    entry = MODELS[request.param]
    return from_module(entry.build(), entry.example_inputs())


def calls(graph, pipeline):
    """How many Python functions a run calls."""
    count = 0

    def watch(frame, event, argument):
        nonlocal count
        count += event == "call"

    runner = Runner(verify=False)
    runner.run(graph, pipeline)  # what is looked up once is not what grows
    sys.setprofile(watch)
    try:
        runner.run(graph, pipeline)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("text", PIPELINES)
def test_five_times_the_nodes_take_five_times_the_calls(graph, text):
    pipeline = Pipeline.parse(text)
    small, large = (calls(side_by_side(graph, copies), pipeline) for copies in (2, 10))
    assert large < 5.1 * small
