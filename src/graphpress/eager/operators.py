"""Torch functions as ops: op types, operand names, and functional forms of in-place functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import FunctionType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional

from graphpress.passes.config.entries import canonical_op_type

Place = int | str | tuple[int, int] | tuple[str, int]
"""The place of an operand in a call: a position or keyword, or one of these with an index into a list."""


@frozen(eq=False)
class Operator:
    """A torch function as an op.

    Attributes:
        function: the function.
        op_type: the name in configs, such as ``add`` for ``torch.add``, ``Tensor.__iadd__`` and ``x += y``.
        operands: names of the positional arguments, as far as they are known.
        is_in_place: True for a function that always writes to its first argument.
        pure: the functional form of an in-place function, or None.
        body: for a composite function, whose inner calls are the ops: the function without its torch function dispatch,
            which would recurse.
    """

    function: Callable[..., Any]
    op_type: str
    operands: tuple[str, ...] = ()
    is_in_place: bool = False
    pure: Callable[..., Any] | None = None
    body: Callable[..., Any] | None = None

    def operand_name(self, position: int) -> str:
        """Return the name of a positional argument."""
        return self.operands[position] if position < len(self.operands) else f"input_{position}"

    def writes(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Return True if a call with these arguments writes to its first operand."""
        if self.is_in_place or kwargs.get("inplace") is True:
            return True
        return "inplace" in self.operands and args[self.operands.index("inplace") :][:1] == (True,)


@frozen
class Operand:
    """A tensor that a call reads, with its name and place in the call."""

    name: str
    place: Place
    tensor: Tensor


def operator_of(function: Callable[..., Any]) -> Operator | None:
    """Return `function` as an op, or None if it computes no tensors, such as ``Tensor.size`` or an attribute."""
    try:
        return _operator(function)
    except TypeError:  # not hashable
        return None


def tensor_operands(operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Operand]:
    """Yield the tensors among the arguments, including items of lists, in order."""
    for position, argument in enumerate(args):
        yield from _tensors(operator.operand_name(position), position, argument)
    for name, argument in kwargs.items():
        yield from _tensors(name, name, argument)


def _tensors(name: str, place: int | str, argument: Any) -> Iterator[Operand]:
    if isinstance(argument, Tensor):
        yield Operand(name, place, argument)
    elif isinstance(argument, list | tuple):
        for index, item in enumerate(argument):
            if isinstance(item, Tensor):
                yield Operand(f"{name.removesuffix('_0')}_{index}", (place, index), item)  # type: ignore[arg-type]


def signature(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Encode the kinds of the positional arguments: tensor (1), list (2, then its length) or other (0)."""
    return tuple([1 if isinstance(a, Tensor) else 2 + len(a) if isinstance(a, list | tuple) else 0 for a in args])


_LAYER = ("input", "weight", "bias")
_OPERANDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _LAYER),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _LAYER),
    **dict.fromkeys(("embedding", "embedding_bag"), ("input", "weight")),
    **dict.fromkeys(("add", "sub", "mul", "div", "matmul", "pow", "maximum", "minimum"), ("input", "other")),
    **dict.fromkeys(("mm", "bmm"), ("input", "mat2")),
    "grouped_mm_fallback": ("input", "weight", "offs"),
    "_grouped_mm": ("input", "mat2", "offs"),
    "addmm": ("input", "mat1", "mat2"),
    "baddbmm": ("input", "batch1", "batch2"),
    "bilinear": ("input1", "input2", "weight", "bias"),
    "einsum": ("equation", *(f"operands_{index}" for index in range(8))),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask"),
    **dict.fromkeys(("concat", "stack", "hstack", "vstack", "dstack"), ("tensors",)),
    "where": ("condition", "input", "other"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias"),
    "rms_norm": ("input", "normalized_shape", "weight"),
    "group_norm": ("input", "num_groups", "weight", "bias"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias"),
    "prelu": ("input", "weight"),
    "lstm": ("input", "hx", "params"),
    "gru": ("input", "hx", "params"),
    "rnn_tanh": ("input", "hx", "params"),
    "rnn_relu": ("input", "hx", "params"),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), ("input", "hx", "w_ih", "w_hh")),
    "index_copy": ("input", "dim", "index", "source"),
    "slice_scatter": ("input", "src"),
    "copy": ("input", "src"),
}
_NO_OPS = frozenset(
    """
    __get__ __set__ __delete__ __len__ __bool__ __int__ __float__ __index__ __repr__ __format__ __hash__ __iter__
    __contains__ __dir__ __reversed__ __deepcopy__ __reduce_ex__ __setstate__ __array__ __dlpack__ size dim ndimension
    stride numel nelement item tolist numpy is_floating_point is_complex is_contiguous is_pinned is_tensor is_same_size
    is_nonzero is_inference is_set_to is_shared is_storage element_size storage_offset storage untyped_storage data_ptr
    get_device device_of type cpu cuda register_hook requires_grad_ retain_grad backward grad_fn share_memory_
    result_type can_cast promote_types equal allclose dense_dim sparse_dim has_names names
    """.split()  # noqa: SIM905
)
# Composite Python functions of torch, whose inner calls are the ops.
_LOOKED_INTO = frozenset({"multi_head_attention_forward"})


@cache
def _operator(function: Callable[..., Any]) -> Operator | None:
    name: str = getattr(function, "__name__", "")
    if not name or name in _NO_OPS:
        return None
    op_type, is_in_place = _op_type(name)
    body = _without_check(function) if name in _LOOKED_INTO and isinstance(function, FunctionType) else None
    pure = _pure(name, op_type) if is_in_place else None
    operands = _OPERANDS.get(op_type) or _python_names(function) or ("input", "other")
    return Operator(function, op_type, operands, is_in_place, pure, body)


def _op_type(name: str) -> tuple[str, bool]:
    """Return the op type for a function name, and whether the name marks an in-place function."""
    bare = name.strip("_")
    if name.startswith("__"):
        for prefix in ("i", "r", ""):
            rest = bare.removeprefix(prefix)
            if bare.startswith(prefix) and rest in _BINARY:
                return canonical_op_type(_BINARY[rest]), prefix == "i"
        return canonical_op_type(bare), name == "__setitem__"
    return canonical_op_type(name.removesuffix("_")), name.endswith("_")


_BINARY = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "truediv": "div",
    "div": "div",
    "matmul": "matmul",
    "pow": "pow",
    "floordiv": "floor_divide",
    "mod": "remainder",
}


def _pure(name: str, op_type: str) -> Callable[..., Any] | None:
    """Return the functional form of an in-place function, or None."""
    candidates = (op_type, name.strip("_"), name.removesuffix("_"))
    for owner in (Tensor, torch, functional):
        for candidate in candidates:
            found: Callable[..., Any] | None = getattr(owner, candidate, None)
            if found is not None and name not in ("__setitem__", "copy_"):
                return found
    return None


def _python_names(function: Callable[..., Any]) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return () if code is None else tuple(code.co_varnames[: code.co_argcount])


def _without_check(function: FunctionType) -> Callable[..., Any]:
    """Copy a Python function of torch without its torch function dispatch, which would recurse under the mode."""
    scope = {**function.__globals__, "has_torch_function": _never}
    made = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _never(*_: Any) -> bool:
    return False
