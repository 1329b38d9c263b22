"""Base class of the readers of saved programs, which translate the ops of one format each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any, Generic, TypeVar

from attrs import define, field

from graphpress.backends.errors import AssetError, MissingDependencyError
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, GraphError, Value
from graphpress.ir.inference import TypeInferenceError
from graphpress.ir.ops import OpDef, Trait, lookup_op, register_op
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType


@contextmanager
def program_errors_named(path: str | PathLike[str]) -> Iterator[None]:
    """Convert errors while reading the program of the model at `path` to errors that name it.

    Raises:
        AssetError: for any other error.
    """
    try:
        yield
    except (AssetError, MissingDependencyError):
        raise
    except Exception as error:
        raise AssetError(f"the program of {path} cannot be read: {type(error).__name__}: {error}") from error


F = TypeVar("F", bound=Callable[..., Any])


class Translations(dict[str, F], Generic[F]):
    """A table of translation functions by op name."""

    def __call__(self, *names: str) -> Callable[[F], F]:
        """Decorator: register the function for the ops of these names."""

        def register(function: F) -> F:
            self.update(dict.fromkeys(names, function))
            return function

        return register


@define(eq=False)
class Reader:
    """Builds the nodes of a graph, in order.

    Attributes:
        graph: the graph being built.
        is_sketch: True for a graph that serves analysis only, to plan the compression of weights: dynamic dims have
            some number, states are inputs, bodies of control flow are inlined beside their op, and an op that does not
            accept such numbers has the declared types.
        declared: the declared types of the current op.
    """

    graph: Graph
    is_sketch: bool = False
    declared: tuple[TensorType, ...] = field(default=(), init=False)
    rewriter: Rewriter = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rewriter = Rewriter(self.graph)

    def emit(self, op: str, attributes: Mapping[str, Any] | None = None, /, **operands: Any) -> Value:
        """Add a node with one result."""
        return self.emit_all(op, attributes, **operands)[0]

    def emit_all(self, op: str, attributes: Mapping[str, Any] | None = None, /, **operands: Any) -> tuple[Value, ...]:
        """Add a node, and return all its results."""
        try:
            return self.rewriter.insert_before(None, op, operands, attributes).results
        except (TypeInferenceError, GraphError):
            if not self.is_sketch or len(self.declared) != 1:
                raise
            return self.rewriter.insert_before(None, op, operands, attributes, types=self.declared).results

    def cast(self, value: Value, dtype: DType) -> Value:
        """Add a cast of `value` to `dtype`, unless it has that type."""
        return value if value.tensor_type.dtype is dtype else self.emit("aten._to_copy", {"dtype": dtype}, self=value)

    def erase_unused(self) -> None:
        """Erase unused nodes, such as shape computations, and the constants that only they read."""
        for node in reversed(list(self.graph.nodes)):
            if not any(result.use_count for result in node.results):
                self.rewriter.erase(node)
        for constant in list(self.graph.constants.values()):
            if not constant.value.use_count:
                self.rewriter.erase_constant(constant)


def opaque_op(name: str, results: int) -> OpDef:
    """Return an op that can be inspected but not executed, for one without translation; `name` includes the dialect."""
    try:
        return lookup_op(name)
    except LookupError:
        return register_op(
            OpDef(name, variadic=True, traits={Trait.OPAQUE}, result_count=results, returns_sequence=results != 1)
        )
