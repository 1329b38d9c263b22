"""What to say when an emitted module fails on inputs other than those it was captured with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx

from graphpress.ir.dims import SymDim
from graphpress.ir.dtypes import DType, DTypeError
from graphpress.ir.errors import GraphpressError
from graphpress.ir.types import TensorType

CAPTURED_TYPE = "captured_type"
"""Key of a placeholder's `meta`: the `TensorType` of the input it was made for."""


class CallError(GraphpressError, RuntimeError, TypeError):
    """A module that fails on inputs that differ from those it was captured with; torch's error is the cause.

    Other inputs are no error by themselves: many models run at other sizes than the example's.
    """


def call_error(graph: fx.Graph, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> CallError | None:
    """The error to raise when calling the module of `graph` ended in `error`; None when the inputs are not to blame."""
    captured = [(str(node.target), node.meta.get(CAPTURED_TYPE)) for node in graph.nodes if node.op == "placeholder"]
    problems = list(_differences(captured, graph, args, kwargs))
    if not problems:
        return None
    said = str(error).strip().split("\n")[0]
    return CallError(f"the model fails on inputs other than those it was captured with: {'; '.join(problems)} ({said})")


def _differences(
    captured: list[tuple[str, TensorType | None]], graph: fx.Graph, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[str]:
    info = getattr(graph._codegen, "pytree_info", None)
    names = list(info.orig_args) if info is not None else [name for name, _ in captured]
    given = len(args) + len(kwargs)
    if given != len(names):
        yield f"it takes {len(names)} ({', '.join(names)}), got {given}"
        return
    values = pytree.tree_leaves((tuple(args), dict(kwargs)))
    if len(values) != len(captured):
        yield f"its arguments hold {len(captured)} values, those given {len(values)}"
        return
    for (name, type), value in zip(captured, values, strict=True):
        if type is not None and not _fits(type, value):
            yield f"{name} was {_shown(type)}, is {_described(value)}"


def _fits(type: TensorType, value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.dtype != type.dtype.torch_dtype or value.ndim != type.rank:
        return False
    return all(isinstance(have, SymDim) or have == got for have, got in zip(type.shape, value.shape, strict=True))


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    try:
        return _shown(TensorType(DType.of(value.dtype), tuple(value.shape)))
    except DTypeError:
        return f"{value.dtype} {list(value.shape)}"


def _shown(type: TensorType) -> str:
    return f"{type.dtype.long_name}[{', '.join(map(str, type.shape))}]"
