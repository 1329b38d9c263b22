"""The arguments of one call of a model, by position and by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from attrs import field, frozen

from graphpress.ir.errors import GraphpressError
from graphpress.ir.torch.export_errors import ExportError, reason_of


@frozen(eq=False)
class Arguments:
    """Arguments of one call of a model."""

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(factory=dict)

    @classmethod
    def of(cls, inputs: Any) -> Arguments:
        """Return example inputs as arguments: a tensor, the positional arguments, or a dict of them by name.

        Raises:
            ExportError: for any other type, and for a dict with keys that are not names.
        """
        if isinstance(inputs, Arguments):
            return inputs
        if isinstance(inputs, torch.Tensor):
            return cls((inputs,))
        if isinstance(inputs, list | tuple):
            return cls(tuple(inputs))
        if isinstance(inputs, Mapping):
            for name in inputs:
                if not isinstance(name, str):
                    raise ExportError(
                        f"example_inputs is a dict with the key {name!r}; accepted: the names of the model's arguments"
                    )
            return cls((), dict(inputs))
        raise ExportError(
            f"example_inputs is a {type(inputs).__name__}; accepted: a tensor, a tuple of the model's positional "
            "arguments, or a dict of its arguments by name"
        )

    def bound_to(self, function: Callable[..., Any]) -> Arguments:
        """Return the arguments in the order of the parameters of `function`, by position as far as possible.

        Arguments that do not fit are returned as they are.
        """
        try:
            bound = inspect.signature(function).bind(*self.positional, **self.named)
        except (TypeError, ValueError):
            return self
        return Arguments(bound.args, bound.kwargs)

    @property
    def leaves(self) -> list[Any]:
        """The leaves of all arguments, in the order of the inputs of a captured graph."""
        return pytree.tree_leaves((self.positional, dict(self.named)))

    def call(self, function: Callable[..., Any]) -> Any:
        """Call `function`, such as a model, with the arguments."""
        return function(*self.positional, **self.named)

    def run(self, model: Callable[..., Any], name: str, error_class: type[GraphpressError]) -> Any:
        """Call a model, which errors call `name`, on these example arguments.

        Raises:
            GraphpressError: of the class `error_class`, with the reason, if the model fails.
        """
        try:
            return self.call(model)
        except GraphpressError:
            raise
        except Exception as error:
            raise error_class(
                f"{name} does not run on the example inputs: {type(error).__name__}: {reason_of(error)}"
            ) from error

    def with_leaves(self, leaves: list[Any]) -> Arguments:
        """Return the arguments with other leaves."""
        _, spec = pytree.tree_flatten((self.positional, dict(self.named)))
        return Arguments(*pytree.tree_unflatten(leaves, spec))
