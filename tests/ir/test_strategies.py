"""The random graphs that other tests build on are valid, run, and vary."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings

from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import run
from tests.ir.strategies import graphs, random_inputs

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(graphs(max_nodes=16))
def test_random_graphs_run_and_stay_of_moderate_size(graph: Graph) -> None:
    outputs = run(graph, random_inputs(graph, seed=3))
    for output, got in zip(graph.user_outputs(), outputs, strict=True):
        if output.value is not None:
            assert tuple(got.shape) == output.value.tensor_type.shape
            assert got.isfinite().all()
            assert got.abs().max() < 1e4


@QUICK
@given(graphs(with_dead_nodes=False, with_literals=False, with_hostile_names=False, with_branches=False))
def test_knobs_are_obeyed(graph: Graph) -> None:
    assert not any(node.is_dead for node in graph.nodes)
    assert all(graph_input.value is not None for graph_input in graph.inputs)
    assert all(len(node.results) == 1 for node in graph.nodes)
    assert all(name == name.strip() and '"' not in name for name in graph.constants)


@settings(QUICK, max_examples=5)
@given(graphs(max_nodes=1))
def test_inputs_depend_on_the_seed_alone(graph: Graph) -> None:
    one, same, other = (random_inputs(graph, seed)[-1] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_shared_weights_values_read_twice_and_every_op_come_up() -> None:
    seen: set[str] = set()

    @settings(QUICK, max_examples=60, database=None, derandomize=True)
    @given(graphs(max_nodes=16))
    def collect(graph: Graph) -> None:
        seen.update(node.op.short_name for node in graph.nodes)
        seen.update("shared weight" for c in graph.constants.values() if c.value.use_count > 1)
        seen.update("read twice" for node in graph.nodes for value in node.results if value.use_count > 1)
        seen.update("dead" for node in graph.nodes if node.is_dead)
        seen.update("tied names" for c in graph.constants.values() if len(c.names) > 1)

    collect()
    assert {"shared weight", "read twice", "dead", "tied names"} <= seen
    assert {"conv2d", "conv1d", "linear", "batch_norm", "cat", "split", "max", "mul", "add", "relu"} <= seen
