"""Run a model on example inputs without a trace of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from graphpress.eager.undisturbed import undisturbed
from graphpress.ir.errors import GraphpressError

Inputs = Tensor | Sequence[Any] | Mapping[str, Any] | None
"""A tensor, the positional arguments, or the arguments by name."""


def run_model(model: nn.Module, inputs: Inputs, error_class: type[GraphpressError]) -> None:
    """Run `model` once in eval mode; buffers, modes and torch's random numbers are then as before.

    Raises:
        GraphpressError: of the class `error_class`, when it does not run.
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    args = () if isinstance(inputs, Mapping) else (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(args, tuple | list):
        args = (args,)
    try:
        with undisturbed(model):
            model(*args, **named)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise error_class(
            f"{type(model).__name__} does not run on the example inputs: {type(error).__name__}: {reason}"
        ) from error
