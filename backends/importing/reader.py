"""The base of the readers of saved programs: each translates the ops of its own format."""

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
def understanding(path: str | PathLike[str]) -> Iterator[None]:
    """Turn every error that the program of the model at `path` causes into one that names it.

    Raises:
        AssetError: in place of another one.
    """
    try:
        yield
    except (AssetError, MissingDependencyError):
        raise
    except Exception as error:
        raise AssetError(f"the program of {path} cannot be read: {type(error).__name__}: {error}") from error


F = TypeVar("F", bound=Callable[..., Any])


class Translations(dict[str, F], Generic[F]):
    """Functions by the names of the ops they translate; called with names, a decorator that adds one."""

    def __call__(self, *names: str) -> Callable[[F], F]:
        """Decorator: the function translates the ops of these names."""

        def register(function: F) -> F:
            self.update(dict.fromkeys(names, function))
            return function

        return register


@define(eq=False)
class Reader:
    """Makes the nodes of a graph, in the order they are asked for.

    Attributes:
        graph: that is made.
        is_sketch: True for a graph that is looked at only, to plan what becomes of weights: extents that are free have
            some number, states are inputs, bodies of control flow stand beside what they belong to, and an op that does
            not fit such numbers has the types that the program declares.
        declared: those types, for the op that is read.
    """

    graph: Graph
    is_sketch: bool = False
    declared: tuple[TensorType, ...] = field(default=(), init=False)
    rewriter: Rewriter = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rewriter = Rewriter(self.graph)

    def emit(self, op: str, attributes: Mapping[str, Any] | None = None, /, **operands: Any) -> Value:
        """A node with one result."""
        return self.emit_all(op, attributes, **operands)[0]

    def emit_all(self, op: str, attributes: Mapping[str, Any] | None = None, /, **operands: Any) -> tuple[Value, ...]:
        """A node with all its results."""
        try:
            return self.rewriter.insert_before(None, op, operands, attributes).results
        except (TypeInferenceError, GraphError):
            if not self.is_sketch or len(self.declared) != 1:
                raise
            return self.rewriter.insert_before(None, op, operands, attributes, types=self.declared).results

    def cast(self, value: Value, dtype: DType) -> Value:
        """`value` as `dtype`."""
        return value if value.tensor_type.dtype is dtype else self.emit("aten._to_copy", {"dtype": dtype}, self=value)

    def erase_unused(self) -> None:
        """Drop nodes that no output needs, such as shapes that were worked out, and constants that only they read."""
        for node in reversed(list(self.graph.nodes)):
            if not any(result.use_count for result in node.results):
                self.rewriter.erase(node)
        for constant in list(self.graph.constants.values()):
            if not constant.value.use_count:
                self.rewriter.erase_constant(constant)


def opaque_op(name: str, results: int) -> OpDef:
    """An op that can be looked at, not run, for one that has no translation; `name` with its dialect."""
    try:
        return lookup_op(name)
    except LookupError:
        return register_op(
            OpDef(name, variadic=True, traits={Trait.OPAQUE}, result_count=results, returns_sequence=results != 1)
        )
