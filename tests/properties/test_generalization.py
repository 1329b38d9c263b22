"""What is proven of a graph about other batches, held against the model at other batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, example, given, settings
from torch import nn

from graphpress.ir import from_module, verify
from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import run
from graphpress.ir.ops import lookup_op
from graphpress.ir.torch.generalization import NotProven, prove
from graphpress.ir.torch.generalization.affine import Affine, Clash, Samples
from graphpress.ir.torch.generalization.dims import BatchDim, Run
from graphpress.ir.types import ScalarType
from tests.properties.batch_modules import STEPS, WIDTH, Steps, batch_modules

BATCHES = (1, 2, 3, 4, 5, 6, 8, 11)

_NAMES = """
    attention branch_that_is_none class_token convolution einsum elements even_half filled_with_the_batch heads
    in_place last_row linear mask mask_of_the_batch mean_by_hand merge_with_the_batch new_of_the_same_shape positions
    positions_of_the_batch repeat row_more rows_against_rows spell_out_the_batch times_the_batch twice_along_the_batch
"""
HOLD_AT_EVERY_BATCH = _NAMES.split()
HOLD_FROM_TWO_ON = ["branch_at_one", "but_the_first"]
"""Steps that are other ones at a batch of one, which torch.export also takes for a case of its own."""


def rows(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, WIDTH, generator=torch.Generator().manual_seed(batch))


def result(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or None where it raises."""
    try:
        with torch.no_grad():
            return function(*arguments)
    except Exception:
        return None


def wrong_batches(module: nn.Module, graph: Graph) -> list[int]:
    """The batches at which the graph does something else than the module."""
    wrong = []
    for batch in BATCHES:
        wanted, found = result(module, rows(batch)), result(lambda x: run(graph, [x])[0], rows(batch))
        if wanted is None or found is None:
            same = wanted is found
        else:
            same = wanted.shape == found.shape and torch.allclose(wanted, found, rtol=1e-4, atol=1e-4, equal_nan=True)
        if not same:
            wrong.append(batch)
    return wrong


def captured(module: nn.Module, batch: int) -> Graph:
    with torch.no_grad():
        return from_module(module, (rows(batch),))


@given(batch_modules(), st.sampled_from([1, 2, 3, 4]))
@example(Steps(["heads"]), 2)
@example(Steps(["merge_by_minus_one"]), 2)
@example(Steps(["row_more", "spell_out_the_batch", "twice_along_the_batch", "elements"]), 1)
@settings(max_examples=80, deadline=None)
def test_a_graph_that_was_proven_does_what_the_module_does_at_every_batch_from_two_on(module, batch):
    assume(result(module, rows(batch)) is not None)
    graph = captured(module, batch)
    before = graph.clone()
    try:
        found = prove(graph, module, (rows(batch),))
    except NotProven:
        assert graph == before
        return
    if not found.is_needed:
        assert wrong_batches(module, graph) in ([], [1])
    found.apply()
    verify(graph)
    assert wrong_batches(module, graph) in ([], [1])


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("name", HOLD_AT_EVERY_BATCH)
def test_what_holds_at_every_batch_is_proven(name, batch):
    module = Steps([name])
    graph = captured(module, batch)
    prove(graph, module, (rows(batch),)).apply()
    verify(graph)
    assert wrong_batches(module, graph) == []


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("name", sorted(set(STEPS) - {*HOLD_AT_EVERY_BATCH, *HOLD_FROM_TWO_ON}))
def test_nothing_is_proven_of_what_may_not(name, batch):
    module = Steps([name])
    if result(module, rows(batch)) is None:
        pytest.skip("the module does not run at this batch")
    with pytest.raises(NotProven):
        prove(captured(module, batch), module, (rows(batch),))


@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("name", HOLD_FROM_TWO_ON)
def test_what_is_another_step_at_one_is_proven_from_two_on(name, batch):
    module = Steps([name])
    graph = captured(module, batch)
    prove(graph, module, (rows(batch),)).apply()
    assert {symbol.minimum for symbol in graph.symbols.values()} == {2}
    assert wrong_batches(module, graph) in ([], [1])


def with_every_equal_number_replaced(graph: Graph, batch: int) -> Graph:
    """A wrong generalization: every size that equals the batch of the example is taken for it."""
    size = graph.insert(
        lookup_op("aten.sym_size.int"),
        {"self": graph.inputs[0].value},
        {"dim": 0},
        [ScalarType("int")],
        before=graph.nodes[0],
    ).result
    for node in graph.nodes:
        for name, argument in list(node.attributes.items()):
            if isinstance(argument, tuple) and batch in argument:
                del node.attributes[name]
                graph.set_operand(node, name, tuple(size if item == batch else item for item in argument))
    return graph


@pytest.mark.parametrize(("name", "batch"), [("heads", 2), ("two_rows", 2)])
def test_the_comparison_rejects_a_guess(name, batch):
    module = Steps([name])
    assert wrong_batches(module, with_every_equal_number_replaced(captured(module, batch), batch)) != []


FORMS = st.builds(Affine, st.dictionaries(st.just("s0"), st.integers(-9, 300)), st.integers(-512, 512))


@given(FORMS)
def test_a_number_of_the_run_is_read_back_as_the_expression_it_was(form):
    samples = Samples.choose({"s0": 2}, 512)
    assert samples.read(form.at(samples.run_sizes)) == form


@given(FORMS)
def test_a_number_that_two_batches_may_have_made_is_not_read(form):
    samples = Samples.choose({"s0": 2, "s1": 2}, 512)
    assert samples.read(form.at(samples.run_sizes)) in (form, None)


@given(st.integers(-(2**40), 2**40))
def test_what_is_read_from_a_number_is_that_number(number):
    samples = Samples.choose({"s0": 2, "s1": 3}, 97)
    form = samples.read(number)
    assert form is None or form.at(samples.run_sizes) == number


OPERATIONS: dict[str, Callable[[Any, int], Any]] = {
    "add": lambda n, k: n + k,
    "add to": lambda n, k: k + n,
    "subtract": lambda n, k: n - k,
    "subtract from": lambda n, k: k - n,
    "multiply": lambda n, k: n * k,
    "multiply by": lambda n, k: k * n,
    "negate": lambda n, k: -n,
    "absolute": lambda n, k: abs(n),
    "halve": lambda n, k: n // k,
    "remainder": lambda n, k: n % k,
    "divmod": lambda n, k: sum(divmod(n, k)),
    "twice": lambda n, k: n + n,
    "nothing": lambda n, k: n - n,
    "less": lambda n, k: n < k,
    "at most": lambda n, k: n <= k,
    "more": lambda n, k: n > k,
    "at least": lambda n, k: n >= k,
    "equal": lambda n, k: n == k,
    "not equal": lambda n, k: n != k,
    "itself": lambda n, k: n == n + 0,
    "truth": lambda n, k: not n,
    "tuple": lambda n, k: (n, k) == (n, k),
    "smallest": lambda n, k: min(n, k),
    "power": lambda n, k: n**2,
    "quotient": lambda n, k: n / k,
    "whole": lambda n, k: int(n),
    "range": lambda n, k: len(range(n)),
    "text": lambda n, k: len(f"{n}"),
    "key": lambda n, k: {1: 0}.get(n, 1),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(-3, 5)), min_size=1, max_size=5))
def test_arithmetic_on_a_size_is_that_of_numbers_from_two_on_or_refused(operations):
    samples = Samples.choose({"s0": 2}, 50)

    def compute(number: Any) -> Any:
        for name, operand in operations:
            number = OPERATIONS[name](number, operand)
        return number

    state = Run(samples)
    try:
        found = compute(state.wrap(Affine({"s0": 1})))
    except (NotProven, Clash):
        assert state.failure is not None
        return
    except (TypeError, ZeroDivisionError):
        return
    for batch in BATCHES[1:]:  # at one, comparisons may be answered otherwise
        wanted = compute(batch)
        assert (found.form.at({"s0": batch}) if isinstance(found, BatchDim) else found) == wanted
