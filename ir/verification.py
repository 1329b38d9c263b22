"""The error of the verifier, and its checks of single parts of a graph: types, constants, signatures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.utils._pytree as pytree

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.graph import Constant, Graph, Node
from graphpress.ir.text.pytrees import TreeSpecError, leaf_count
from graphpress.ir.types import ScalarType, SymDim, TensorType, Type

_CONSTANT_KINDS = ("parameter", "buffer", "literal")
_MOST_ELEMENTS = 2**63  # torch counts in int64


class VerificationError(GraphpressError):
    """A violation of an IR invariant; `node` is the node at fault, if known."""

    def __init__(self, message: str, node: Node | None = None):
        super().__init__(message)
        self.node = node


def fault(node: Node | None, message: str) -> VerificationError:
    """Return the error for `node`, with its op and location."""
    if node is None:
        return VerificationError(message)
    return VerificationError(f"{node.name} ({node.op.name}), from {node.location}: {message}", node)


def has_size(type: TensorType) -> bool:
    """Return False if a dim is negative or torch cannot count the elements."""
    count = 1
    for dim in type.shape:
        if isinstance(dim, int):
            if dim < 0:
                return False
            count *= max(dim, 1)
            if count >= _MOST_ELEMENTS:
                return False
    return True


def symbols_of(type: Type) -> Iterator[str]:
    """Yield the symbols in the dims of a type."""
    dims = type.shape if isinstance(type, TensorType) else (type.value,) if isinstance(type, ScalarType) else ()
    for dim in dims:
        if isinstance(dim, SymDim):
            yield from dim.symbols


def check_constant(constant: Constant) -> None:
    """Check the kind of `constant`, and its data, if it has any."""
    if constant.kind not in _CONSTANT_KINDS:
        near = suggestion(constant.kind, _CONSTANT_KINDS) if isinstance(constant.kind, str) else ""
        accepted = near or f"; accepted: {', '.join(_CONSTANT_KINDS)}"
        raise VerificationError(f"constant {constant.name!r} has the kind {constant.kind!r}{accepted}")
    if not constant.has_data:
        return
    tensor, type = constant.tensor, constant.type
    version = 0 if tensor.is_inference() else tensor._version
    good = constant._verified_state
    if good is not None and good[0] == id(tensor) and good[1] == version and good[2] == type:
        return
    if tensor.dtype != type.dtype.torch_dtype or tuple(tensor.shape) != type.shape:
        raise VerificationError(f"constant {constant.name!r} is {type}, but its data is {TensorType.of(tensor)}")
    if not type.dtype.is_dense and tensor.numel():
        lowest, highest = (int(bound) for bound in torch.aminmax(tensor))
        minimum, maximum = _code_range(type)
        if lowest < minimum or highest > maximum:
            allowed = f"{type.dtype.value} has {minimum}..{maximum}"
            raise VerificationError(f"constant {constant.name!r} holds codes {lowest}..{highest}; {allowed}")
    constant._verified_state = id(tensor), version, type


def _code_range(type: TensorType) -> tuple[int, int]:
    if type.dtype.is_floating:
        return 0, 2**type.dtype.bits - 1
    return int(type.dtype.minimum), int(type.dtype.maximum)


def check_signature(graph: Graph) -> None:
    """Check the field types of the signature of `graph`, and its numbers of inputs and results."""
    signature = graph.signature
    if signature is None:
        return
    where = f"graph {graph.name!r}"
    names, specs = signature.argument_names, (signature.in_spec, signature.out_spec)
    are_names = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
    if not are_names or not all(isinstance(spec, str | pytree.TreeSpec) for spec in specs):
        raise VerificationError(f"{where} has {signature}; accepted: names, and two pytree specs or their texts")
    for what, spec, count in (
        ("inputs", signature.in_spec, len(graph.inputs)),
        ("user outputs", signature.out_spec, len(graph.user_outputs())),
    ):
        try:
            leaves = _leaf_count(spec)
        except TreeSpecError as error:
            raise VerificationError(f"{where}: in its signature, {error}") from error
        if leaves != count:
            raise VerificationError(f"{where} has {count} {what}; its signature has {leaves}")


@lru_cache(maxsize=512)
def _leaf_count(spec: Any) -> int:
    return leaf_count(spec)
