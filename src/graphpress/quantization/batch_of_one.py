"""Whether a graph that was captured for batches of two and more also holds at a batch of one.

`torch.export` takes a dim of size 1 for another case than the sizes from 2 on, and so does the proof that a graph holds
at every batch. Most models take the same steps at one, or others with the same results; some do not.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphpress.compressor import mode_restored
from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import InterpreterError
from graphpress.ir.torch.arguments import Arguments
from graphpress.modules.states import states_restored
from graphpress.passes.framework.numerics import execute

_SEED = 0  # of random ops, alike in both runs


class BatchOfOneWarning(UserWarning):
    """A model computes something else at a batch of one than at more, and its graph does one of both."""


def settled_at_one(graph: Graph, captured: Graph, model: nn.Module, arguments: Arguments) -> Graph:
    """Return `graph`, or `captured` where the example has a batch of one at which `graph` does not hold.

    Graph and model are run on the first row of the example; a difference is a `BatchOfOneWarning`.

    Args:
        graph: holds at batches of two and more.
        captured: the graph at the batch of the example.
        model: the captured model.
        arguments: the example.
    """
    first = _first_row(graph, arguments)
    if first is None or _agree(graph, model, first):
        return graph
    is_of_one = all(row is leaf for row, leaf in zip(first.leaves, arguments.leaves, strict=True))
    batches = "a batch of one, the example's" if is_of_one else "batches of two and more"
    warnings.warn(
        f"{type(model).__name__} computes something else at a batch of one than at larger ones; what is captured holds "
        f"at {batches}",
        BatchOfOneWarning,
        stacklevel=2,
    )
    return captured if is_of_one else graph


def _first_row(graph: Graph, arguments: Arguments) -> Arguments | None:
    """Return the arguments at a batch of one; None for a graph that holds there, or has other dynamic dims."""
    undecided = {name for name, symbol in graph.symbols.items() if symbol.minimum == 2}
    leaves = list(arguments.leaves)
    if not undecided or len(leaves) != len(graph.inputs):
        return None
    for place, entry in enumerate(graph.inputs):
        shape = entry.value.tensor_type.shape if entry.value is not None else ()
        for axis, dim in enumerate(shape):
            if isinstance(dim, int):
                continue
            if str(dim) not in undecided:
                return None
            if leaves[place].shape[axis] > 1:
                leaves[place] = leaves[place].narrow(axis, 0, 1)
    return arguments.with_leaves(leaves)


def _agree(graph: Graph, model: nn.Module, arguments: Arguments) -> bool:
    """Return whether graph and model have the same outputs up to rounding, or the model refuses the arguments."""

    def copies() -> Arguments:
        return arguments.with_leaves([each.clone() if isinstance(each, torch.Tensor) else each for each in leaves])

    leaves = arguments.leaves
    with states_restored(model), mode_restored(model), torch.random.fork_rng(devices=[]), torch.no_grad():
        model.eval()
        torch.manual_seed(_SEED)
        try:
            meant = pytree.tree_leaves(copies().call(model))
        except Exception:
            return True
        try:
            found = execute(graph, copies().leaves, _SEED).outputs
        except InterpreterError:
            return False
    return len(meant) == len(found) and all(map(_is_close, meant, found))


def _is_close(meant: object, found: object) -> bool:
    if not isinstance(meant, torch.Tensor) or not isinstance(found, torch.Tensor):
        return True
    if meant.shape != found.shape:
        return False
    if not meant.is_floating_point():
        return torch.equal(meant, found)
    scale = meant[meant.isfinite()].abs().amax().item() if meant.isfinite().any() else 1.0
    return torch.allclose(meant, found.to(meant.dtype), rtol=1e-2, atol=1e-2 * scale, equal_nan=True)
