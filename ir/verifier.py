"""Graph verification in one traversal.

An invalid graph is a bug of the pass that made it, so messages name the node, its module path and the source line.
"""

from __future__ import annotations

from types import NoneType
from typing import Any

from graphpress.ir.calling import CALL_SPEC, RESULT_SPEC
from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Constant, Graph, Input, Node, Output, Value, bodies
from graphpress.ir.inference import TypeInferenceError, exact, infer_element_types, result_count
from graphpress.ir.types import DimError, TensorType, Type
from graphpress.ir.verification import (
    VerificationError,
    check_constant,
    check_signature,
    fault,
    has_size,
    symbols_of,
)

__all__ = ["VerificationError", "verify"]

_OUTPUT_KINDS = ("user", "buffer_mutation", "input_mutation")

# Keys of node states that passed the schema and type checks; models repeat their layers, and most nodes stay unchanged
# from one pass to the next. The keys contain no values, so they keep no graph alive.
_VERIFIED_STATES: set[tuple[Any, ...]] = set()
_MOST_STATES = 100_000
_CONTEXTS: dict[tuple[Any, ...], object] = {}
"""What the states of a graph's nodes have in common, by one object: it is not hashed again for each node."""
_MOST_SHOWN = 3  # nodes that a message names around the one at fault
_PLAIN = frozenset({int, str, NoneType})


def verify(graph: Graph) -> None:
    """Check structure, use lists, schemas, types and constants of `graph`, then of its nested graphs.

    Raises:
        VerificationError: at the first violation.
    """
    pending = [_Verifier(graph)]  # no recursion: graphs may nest deeper than Python's stack
    while pending:
        verifier = pending.pop()
        try:
            verifier.verify()
        except VerificationError as error:
            raise verifier.located(error) from error.__cause__
        pending += reversed(verifier.nested)


class _Verifier:
    def __init__(self, graph: Graph, with_types: bool = True, outer: _Verifier | None = None, node: Node | None = None):
        self._graph = graph
        self._with_types = with_types
        self._outer, self._node = outer, node  # whose attribute the graph is
        self.nested: list[_Verifier] = []
        self._hints = {name: symbol.hint for name, symbol in graph.symbols.items()}
        self._context = _CONTEXTS.setdefault((with_types, *self._hints.items()), object())
        self._known: set[int] = set()  # ids of the values that may be read at this point
        self._values: list[Value] = []  # the same values, kept alive
        self._reads = 0
        self._names: set[str] = set()
        self._checked_types: set[int] = set()  # by id; the values keep them alive

    def verify(self) -> None:
        for graph_input in self._graph.inputs:
            self._check_input(graph_input)
        for name, constant in self._graph.constants.items():
            self._check_constant(name, constant)
        self._check_qualified_names()
        count, previous = 0, None
        for node in self._graph.nodes:
            if node._previous is not previous:
                raise fault(node, "the node list is broken before it")
            self._check_node(node)
            count, previous = count + 1, node
        if count != len(self._graph.nodes) or self._graph._last is not previous:
            raise VerificationError(
                f"graph {self._graph.name!r} counts {len(self._graph.nodes)} nodes, but has {count}"
            )
        targets: set[int] = set()
        for output in self._graph.outputs:
            self._check_output(output, targets)
        # Each read has its own entry in a use list, so the uses are exactly the reads if their numbers are equal.
        if sum([len(value._uses) for value in self._values]) != self._reads:
            raise _unread_use(self._graph)
        check_signature(self._graph)

    def located(self, error: VerificationError) -> VerificationError:
        """Return `error` with the nodes whose bodies it is in: the outermost, and the innermost ones."""
        around: list[_Verifier] = []
        verifier = self
        while verifier._outer is not None:
            around.append(verifier)
            verifier = verifier._outer
        for depth, each in enumerate(around):
            if depth < _MOST_SHOWN or each is around[-1]:
                skipped = f"{depth - _MOST_SHOWN} bodies deeper, " if depth > _MOST_SHOWN else ""
                error = fault(each._node, f"in its body {each._graph.name!r}: {skipped}{error}")
        return error

    # Definitions.

    def _check_input(self, graph_input: Input) -> None:
        self._check_name(graph_input.name, None)
        if graph_input.value is None:
            return
        if graph_input.value.producer is not graph_input:
            raise VerificationError(
                f"input {graph_input.name!r}: the producer of its value is {graph_input.value.name}"
            )
        self._define(graph_input.value)

    def _check_constant(self, name: str, constant: Constant) -> None:
        if constant.name != name or constant.value.producer is not constant:
            raise VerificationError(f"constant {name!r} is stored under another name or has another's value")
        if not constant.value.use_count:
            raise VerificationError(f"constant {name!r} is dangling: nothing reads it")
        self._define(constant.value)
        check_constant(constant)

    def _check_qualified_names(self) -> None:
        owners: dict[str, str] = {}
        for constant in self._graph.constants.values():
            for name in constant.names:
                if owners.setdefault(name, constant.name) != constant.name:
                    raise VerificationError(
                        f"constants {owners[name]!r} and {constant.name!r} have one qualified name, {name!r}"
                    )

    def _define(self, value: Value) -> None:
        self._known.add(id(value))
        self._values.append(value)
        if id(value.type) not in self._checked_types:
            self._check_symbols(value, None)

    def _check_symbols(self, value: Value, node: Node | None) -> None:
        type = value.type
        if isinstance(type, TensorType) and not has_size(type):
            raise fault(node, f"{value.name}: {type} has no size; accepted: dims from 0, fewer than 2**63 elements")
        try:
            symbols = () if isinstance(type, TensorType) and type.is_static else tuple(symbols_of(type))
        except DimError as error:
            raise fault(node, f"{value.name}: {error}") from error
        for symbol in symbols:
            if symbol not in self._hints:
                near = suggestion(symbol, self._hints)
                raise fault(node, f"{value.name}: {type} has an undeclared symbol {symbol!r}{near}")
        self._checked_types.add(id(type))

    def _check_name(self, name: str, node: Node | None) -> None:
        if name in self._names:
            raise fault(node, f"the name {name!r} is used twice")
        if name not in self._graph._names:
            raise fault(node, f"the name {name!r} is not reserved in graph {self._graph.name!r}")
        self._names.add(name)

    # Nodes.

    def _check_node(self, node: Node) -> None:
        if node.graph is not self._graph:
            raise fault(node, f"is in the node list of graph {self._graph.name!r} but does not refer to this graph")
        name = node.name
        if name in self._names or name not in self._graph._names:
            self._check_name(name, node)  # raises with the reason
        self._names.add(name)
        state: list[Any] = [node.op, self._context, len(node.operands)]
        self._read_operands(node, state)
        self._define_results(node, state)
        for name, value in node.attributes.items():
            state += name, value if type(value) in _PLAIN else exact(value)
        found = tuple(state)
        if found == node._verified_state:
            return
        try:
            is_good = found in _VERIFIED_STATES
        except TypeError:  # a nested graph, or another mutable attribute
            self._check_schema_and_types(node)
            return
        if not is_good:
            self._check_schema_and_types(node)
            if len(_VERIFIED_STATES) >= _MOST_STATES:
                _VERIFIED_STATES.clear()
                _CONTEXTS.clear()
            _VERIFIED_STATES.add(found)
        node._verified_state = found

    def _read_operands(self, node: Node, state: list[Any]) -> None:
        """Check that each operand is defined and in the use list, and add names and types to `state`."""
        known = self._known
        for name, operand in node.operands.items():
            if isinstance(operand, Value):
                if id(operand) not in known or (node, name, None) not in operand._uses:
                    self._check_read(operand, node, name, None)  # raises with the reason
                self._reads += 1
                state += name, operand.type
            else:
                for index, value in enumerate(operand if isinstance(operand, tuple) else ()):
                    if isinstance(value, Value):
                        self._check_read(value, node, name, index)
                        self._reads += 1
                state += name, exact(_type(operand))

    def _define_results(self, node: Node, state: list[Any]) -> None:
        """Define the results, and add their types to `state`."""
        results = node.results
        for index, result in enumerate(results):
            if result.producer is not node or result.index != index:
                raise fault(node, f"result {index} has another producer or index")
            self._known.add(id(result))
            self._values.append(result)
            type = result.type
            if id(type) not in self._checked_types:
                self._check_symbols(result, node)
            state.append(type if result._uses or len(results) == 1 else None)

    def _check_schema_and_types(self, node: Node) -> None:
        self._check_schema(node)
        if self._with_types:
            self._check_types(node)
        for body in bodies(node):
            # Under autocast, result types of torch ops do not follow from the operand types.
            with_types = self._with_types and "autocast" not in node.op.name
            self.nested.append(_Verifier(body, with_types, self, node))

    def _check_read(self, value: Value, user: Node | Output, operand: str, index: int | None) -> None:
        place = id(value)
        if place not in self._known:
            node = user if isinstance(user, Node) else None
            raise fault(node, f"{user.name} reads {value.name} as {operand!r}, {self._why_unknown(value)}")
        if (user, operand, index) not in value._uses:
            raise _wrong_use(user, f"reads {value.name} as {operand!r}, which its use list lacks")

    def _why_unknown(self, value: Value) -> str:
        producer = value.producer
        if isinstance(producer, Node):
            if producer.graph is self._graph:
                return "which is computed only later"
            return "which is in another graph" if producer.graph is not None else "which was erased"
        kind = "constant" if isinstance(producer, Constant) else "input"
        return f"which is not among the {kind}s of graph {self._graph.name!r}"

    def _check_schema(self, node: Node) -> None:
        op = node.op
        both = node.operands.keys() & node.attributes.keys()
        if both:
            raise fault(node, f"{min(both)!r} is both an operand and an attribute")
        if op.result_count is not None and len(node.results) != op.result_count:
            raise fault(node, f"has {len(node.results)} results; {op.name} gives {op.result_count}")
        if op.variadic:
            return
        known = op.by_name
        for name in (*node.operands, *node.attributes):
            if name not in known and name not in (CALL_SPEC, RESULT_SPEC):
                raise fault(node, f"{op.name} has no parameter {name!r}{suggestion(name, known)}")
        for parameter in op.parameters:
            missing = parameter.name not in node.operands and parameter.name not in node.attributes
            if missing and parameter.is_required:
                raise fault(node, f"{op.name} needs {parameter.name!r}")

    def _check_types(self, node: Node) -> None:
        count = result_count(node.op, {**node.operands, **node.attributes})
        if count is not None and len(node.results) != count:
            raise fault(node, f"has {len(node.results)} results; {node.op.name} gives {count} for such operands")
        try:
            inferred = infer_element_types(node.op, node.operands, node.attributes, self._graph.symbols)
        except TypeInferenceError as error:
            operands = ", ".join(f"{name}: {value.type}" for name, _, value in node.operand_values())
            raise fault(node, f"{node.op.name} does not accept ({operands}): {error}") from error
        if inferred is None:
            return
        if len(inferred) != len(node.results):
            raise fault(
                node, f"has {len(node.results)} results; {node.op.name} gives {len(inferred)} for such operands"
            )
        for result, expected in zip(node.results, inferred, strict=True):
            if len(inferred) > 1 and not result._uses:  # results for a backward pass differ between devices
                continue
            if not self._agree(result.type, expected):
                declared = result.type
                raise fault(node, f"{result.name} is declared {declared}, but {node.op.name} gives {expected}")

    def _agree(self, declared: Type, expected: Type) -> bool:
        """Return True if the types are equal, equal at the symbols' example values, or not tensors."""
        if declared == expected or not isinstance(declared, TensorType) or not isinstance(expected, TensorType):
            return True
        try:
            return declared.at(self._hints) == expected.at(self._hints)
        except DimError as error:
            raise VerificationError(f"{declared} cannot be compared with {expected}: {error}") from error

    # Outputs and uses.

    def _check_output(self, output: Output, targets: set[int]) -> None:
        if output.kind not in _OUTPUT_KINDS:
            raise VerificationError(f"output kind {output.kind!r}{suggestion(output.kind, _OUTPUT_KINDS)}")
        if output.value is not None:
            self._check_read(output.value, output, "value", None)
            self._reads += 1
        if output.kind == "user":
            if output.target is not None:
                raise VerificationError(f"a user output has a target, {output.target.name}")
            return
        target, value = output.target, output.value
        if target is None or value is None:
            raise VerificationError(f"a {output.name} needs a value and a target")
        self._check_read(target, output, "target", None)
        self._reads += 1
        wanted = Constant if output.kind == "buffer_mutation" else Input
        if not isinstance(target.producer, wanted):
            raise VerificationError(f"a {output.name} writes to {target.name}; expected: {wanted.__name__.lower()}")
        if id(target) in targets:
            raise VerificationError(f"two outputs write to {target.name}")
        targets.add(id(target))
        if not self._agree(value.type, target.type):
            raise VerificationError(f"{value.name} ({value.type}) is written to {target.name} ({target.type})")


def _unread_use(graph: Graph) -> VerificationError:
    """Return the error for a use that does not match a read."""
    for value in graph.values():
        for user, operand, index in value._uses:
            if not _is_read(user, operand, index, value):
                return _wrong_use(user, f"is in the use list of {value.name} as {operand!r}, but does not read it")
    return VerificationError(
        f"graph {graph.name!r}: a use list has a use twice, or one of a node that is not in the graph"
    )


def _is_read(user: Node | Output, operand: str, index: int | None, value: Value) -> bool:
    held = getattr(user, operand) if isinstance(user, Output) else user.operands.get(operand)
    items = held if isinstance(held, tuple) else ()
    return held is value if index is None else index < len(items) and items[index] is value


def _wrong_use(user: Node | Output, message: str) -> VerificationError:
    return fault(user, message) if isinstance(user, Node) else VerificationError(f"{user.name} {message}")


def _type(operand: Any) -> Any:
    """Replace the values in `operand` by their types."""
    if isinstance(operand, Value):
        return operand.type
    return tuple(map(_type, operand)) if isinstance(operand, tuple) else operand
