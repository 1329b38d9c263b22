"""Smaller graphs made of a graph: a part of its nodes, some of its outputs.

Values that a part reads from elsewhere become inputs, and what they were in a run of the whole becomes what is given
for them; values that were read elsewhere become outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from attrs import evolve

from graphpress.ir.graph import Graph, Node, Output
from graphpress.ir.interpreter import Interpreter
from graphpress.ir.ops import Trait
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.subgraph import extract
from graphpress.passes.framework.reproduction import Case

Accept = Callable[[Case | None], bool]


def values_in_a_run(case: Case) -> dict[str, Any]:
    """What every value computed by the nodes is, by its name, when the graph runs on the inputs of `case`; and the
    inputs. Empty when there are none.

    Raises:
        InterpreterError: when the graph does not run.
    """
    if case.inputs is None:
        return {}
    known: dict[str, Any] = {each.name: given for each, given in zip(case.graph.inputs, case.inputs, strict=True)}
    may_change = any(node.op.has(Trait.IN_PLACE) for node in case.graph.nodes)

    def keep(node: Node, results: Sequence[Any]) -> None:
        for value, result in zip(node.results, results, strict=True):
            known[value.name] = result.clone() if may_change and isinstance(result, torch.Tensor) else result

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        Interpreter(case.graph, keep).execute(case.inputs)
    return known


def part(case: Case, names: Collection[str], known: Mapping[str, Any]) -> Case | None:
    """The nodes `names` alone; None when a value that has to be given is not known."""
    graph = extract(case.graph, names)
    if case.inputs is None:
        return evolve(case, graph=graph)
    if any(each.name not in known for each in graph.inputs):
        return None
    return evolve(case, graph=graph, inputs=[known[each.name] for each in graph.inputs])


def remove_nodes(case: Callable[[], Case], accept: Accept, known: Mapping[str, Any]) -> None:
    """Cut out all nodes that `accept` can do without: delta debugging (Zeller and Hildebrandt, 2002, `ddmin`).

    Args:
        case: gives the case as it is now.
        accept: takes a candidate, says whether the failure stays, and if so makes it the case.
        known: what values are in a run; see `values_in_a_run`.
    """
    pieces = 2
    while len(names := [node.name for node in case().graph.nodes]) > 1:
        pieces = min(pieces, len(names))
        chunks = _chunks(names, pieces)
        if any(accept(part(case(), chunk, known)) for chunk in chunks):
            pieces = 2
            continue
        if pieces > 2 and _remove_chunks(chunks, case, accept, known):
            pieces = max(pieces // 2, 2)
            continue
        if pieces == len(names):
            return
        pieces *= 2


def _remove_chunks(chunks: list[list[str]], case: Callable[[], Case], accept: Accept, known: Mapping[str, Any]) -> bool:
    is_smaller = False
    for chunk in chunks:
        rest = {node.name for node in case().graph.nodes} - set(chunk)
        if rest and accept(part(case(), rest, known)):
            is_smaller = True
    return is_smaller


def _chunks(names: list[str], count: int) -> list[list[str]]:
    bounds = [round(place * len(names) / count) for place in range(count + 1)]
    return [names[start:end] for start, end in pairwise(bounds)]


def fewer_outputs(case: Case) -> Iterator[Case]:
    """With only one of the outputs each, then without one of them each."""
    count = len(case.graph.outputs)
    if count > 1:
        for place in range(count):
            yield with_outputs(case, {place})
        if count > 2:
            for place in range(count):
                yield with_outputs(case, set(range(count)) - {place})


def with_outputs(case: Case, places: Collection[int]) -> Case:
    """Only the outputs at `places`, and what they are computed from."""
    graph = case.graph.clone()
    graph.signature = None
    for place, output in enumerate(list(graph.outputs)):
        if place not in places:
            _remove_output(graph, output)
    rewriter = Rewriter(graph)
    for node in reversed(graph.nodes):
        if node.is_dead:
            rewriter.erase(node)
    for constant in list(graph.constants.values()):
        if not constant.value.use_count:
            rewriter.erase_constant(constant)
    kept = [place for place, each in enumerate(graph.inputs) if each.value is not None and each.value.use_count]
    graph.inputs[:] = [graph.inputs[place] for place in kept]
    inputs = None if case.inputs is None else [case.inputs[place] for place in kept]
    return evolve(case, graph=graph, inputs=inputs)


def _remove_output(graph: Graph, output: Output) -> None:
    graph.set_output(output, None)
    if output.target is not None:
        del output.target._uses[id(output), "target", None]
    graph.outputs.remove(output)
