"""The batch of a captured graph as a symbol."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from attrs import define, field

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import Trait, lookup_op
from graphpress.ir.torch.generalization.affine import Affine, Clash, NotProven, Samples
from graphpress.ir.torch.generalization.matching import Match, match
from graphpress.ir.torch.generalization.witness import run_at
from graphpress.ir.types import ScalarType, Symbol, TensorType

# Numbers above are limits ("to the end"), not sizes.
_LARGEST_SIZE = 2**31
# Inputs whose batches clash take further runs, which mostly end early.
_RUNS_PER_INPUT = 3


@define(eq=False)
class Generalization:
    """A proof that a graph holds at every batch, once the numbers that it found are expressions.

    Attributes:
        symbols: for each input, the symbol that its first extent is, if any.
        samples: the batches of the example.
        match: what depends on the batch.
    """

    graph: Graph
    symbols: list[str | None]
    samples: Samples
    match: Match

    @property
    def is_needed(self) -> bool:
        """False when the graph computes the right thing at every batch as it is."""
        return bool(self.match.arguments)

    def apply(self) -> None:
        """Let types and arguments of the graph depend on the batch; torch.export writes them in the same way."""
        numbers = _Numbers(self.graph)
        for graph_input, symbol in zip(self.graph.inputs, self.symbols, strict=True):
            if symbol is None or graph_input.value is None:
                continue
            batch = Affine({symbol: 1})
            type = graph_input.value.tensor_type
            graph_input.value.type = TensorType(type.dtype, [batch.as_dim(), *type.shape[1:]])
            numbers.sources.setdefault(symbol, graph_input.value)
            # torch takes an extent of 1 for a constant, and so would whoever exports the graph again.
            self.graph.symbols[symbol] = Symbol(2, None, max(2, self.samples.example[symbol]))
        for value, shape in self.match.shapes.items():
            dims = [Affine.of(extent).as_dim() for extent in shape]
            value.type = TensorType(value.tensor_type.dtype, dims)
        for node, arguments in self.match.arguments.items():
            for name, argument in arguments.items():
                node.attributes.pop(name, None)
                self.graph.set_operand(node, name, numbers.in_place_of_forms(argument))


def prove(graph: Graph, module: torch.nn.Module, arguments: tuple[Any, ...]) -> Generalization:
    """Show that `graph`, captured from `module` in eval mode with `arguments`, holds at every batch.

    The batch is the first extent of every tensor among the arguments. Batches of several arguments are one symbol where
    the model cannot have them apart; a first extent that must be the number it is stays one.

    Raises:
        NotProven: when it may not, or when that cannot be seen. The graph is left as it was.
    """
    _check_graph(graph)
    leaves = pytree.tree_leaves(arguments)
    if len(leaves) != len(graph.inputs):
        raise NotProven("the graph has other inputs than the model")
    with_batch = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.ndim]
    symbols: list[str | None] = [None] * len(leaves)
    for count, place in enumerate(with_batch):
        symbols[place] = f"s{count}"
    largest = _largest_number(graph)
    waiting = deque([symbols])
    for _ in range(_RUNS_PER_INPUT * len(with_batch)):
        if not waiting:
            break
        symbols = waiting.popleft()
        example = {symbol: leaves[place].shape[0] for place, symbol in enumerate(symbols) if symbol is not None}
        if not example:
            continue
        try:
            witness = run_at(module, arguments, symbols, Samples.choose(example, largest), len(graph.nodes))
        except Clash as clash:
            waiting += _resolutions(symbols, clash, example)
        else:
            return Generalization(graph, symbols, witness.samples, match(graph, witness))
    raise NotProven("the model does not run at every other batch")


def _check_graph(graph: Graph) -> None:
    if any(output.kind != "user" for output in graph.outputs):
        raise NotProven("the model writes to its buffers or inputs")
    if graph.symbols:
        raise NotProven("the graph has symbols already")
    for node in graph.nodes:
        if node.op.has(Trait.OPAQUE) or node.op.has(Trait.EFFECT) or node.op.has(Trait.IN_PLACE):
            raise NotProven(f"the graph calls {node.op.name}")


def _resolutions(symbols: list[str | None], clash: Clash, example: dict[str, int]) -> Iterator[list[str | None]]:
    """What the symbols may be after a clash, the likely thing first; the next run shows whether it is so.

    Two of one size may be one batch. Otherwise the batch is that of the first input, and the other is a number.
    """

    def replaced(old: str, new: str | None) -> list[str | None]:
        return [new if symbol == old else symbol for symbol in symbols]

    if not clash.symbols:
        raise NotProven(str(clash), asked=True)
    first, *others = sorted(clash.symbols, key=symbols.index)[:2]
    if others and example[first] == example[others[0]]:
        yield replaced(others[0], first)
    yield replaced(others[0] if others else first, None)


def _largest_number(graph: Graph) -> int:
    """No size in the graph is larger."""
    numbers = [1]
    for value in graph.values():
        if isinstance(value.type, TensorType):
            numbers += [extent for extent in value.type.shape if isinstance(extent, int)]
    for node in graph.nodes:
        for number in pytree.tree_leaves(list(node.attributes.values())):
            if type(number) is int and abs(number) < _LARGEST_SIZE:
                numbers.append(abs(number))
    return max(numbers)


@define(eq=False)
class _Numbers:
    """The nodes that compute sizes: at the beginning of the graph, each once."""

    graph: Graph
    sources: dict[str, Value] = field(factory=dict)
    _made: dict[str, Value] = field(factory=dict)
    _before: Node | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._before = next(iter(self.graph.nodes), None)

    def in_place_of_forms(self, argument: Any) -> Any:
        """`argument` with values for its expressions."""
        if isinstance(argument, tuple):
            return tuple(self.in_place_of_forms(item) for item in argument)
        return self._value(argument) if isinstance(argument, Affine) else argument

    def _value(self, form: Affine) -> Value:
        dim = str(form.as_dim())
        if dim not in self._made:
            self._made[dim] = self._compute(form)
        return self._made[dim]

    def _compute(self, form: Affine) -> Value:
        if form.constant:
            whole = self._value(Affine(form.factors))
            return self._insert("sym.add", {"arg0": whole}, {"arg1": form.constant}, form)
        (name, factor), *others = form.factors.items()
        if others:
            rest = self._value(Affine(dict(others)))
            return self._insert("sym.add", {"arg0": self._value(Affine({name: factor})), "arg1": rest}, {}, form)
        if factor != 1:
            return self._insert("sym.mul", {"arg0": self._value(Affine({name: 1}))}, {"arg1": factor}, form)
        return self._insert("aten.sym_size.int", {"self": self.sources[name]}, {"dim": 0}, form)

    def _insert(self, op: str, operands: dict[str, Any], attributes: dict[str, Any], form: Affine) -> Value:
        type = ScalarType("int", form.as_dim())
        return self.graph.insert(lookup_op(op), operands, attributes, [type], before=self._before).result
