"""Complex tensors as pairs of real tensors, on which operators of torch run by rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

Rule = Callable[..., Any]


class UnsupportedComplexOp(Exception):
    """An operator on complex values that no rule covers and torch cannot decompose.

    Attributes:
        operator: the operator.
        what: the unsupported form, if not every form of it is unsupported.
        accepted: what is supported instead.
    """

    def __init__(self, operator: Any, what: str = "", accepted: str = "") -> None:
        super().__init__(str(operator))
        self.operator, self.what, self.accepted = operator, what, accepted


class Pair(Tensor):
    """A complex tensor whose real and imaginary parts are real tensors of its shape."""

    re: Tensor
    im: Tensor

    @staticmethod
    def __new__(cls, re: Tensor, im: Tensor) -> Pair:
        """Make a complex tensor of two tensors with one shape and dtype."""
        assert re.shape == im.shape, f"parts of shapes {re.shape} and {im.shape}"
        pair: Pair = torch.Tensor._make_wrapper_subclass(cls, re.shape, dtype=re.dtype.to_complex(), device=re.device)
        pair.re, pair.im = re, im
        return pair

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Pair(shape={tuple(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operator by its rule, or by the operators that torch decomposes it into."""
        return apply(func, args, kwargs or {})


class PairedArithmetic(TorchDispatchMode):
    """Mode in which operators that make complex tensors of real ones make pairs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run operators on real tensors alone as they are, and others by their rules."""
        return apply(func, args, kwargs or {})


def touches_complex(operator: Any, args: Any, kwargs: Any) -> bool:
    """Return True if an operator reads or makes complex values, given its arguments with tensors in them."""
    return operator in MAKERS or any(map(_is_complex, pytree.tree_leaves((args, kwargs))))


def _is_complex(leaf: Any) -> bool:
    if isinstance(leaf, torch.dtype):
        return leaf.is_complex
    return isinstance(leaf, complex) or (isinstance(leaf, Tensor) and leaf.is_complex())


def apply(operator: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator: on complex tensors by its rule, or by the operators that torch decomposes it into.

    Raises:
        UnsupportedComplexOp: if there are neither.
    """
    if not touches_complex(operator, args, kwargs):
        return operator(*args, **kwargs)
    rule = RULES.get(operator)
    result = NotImplemented if rule is None else rule(*args, **kwargs)
    if result is not NotImplemented:
        return result
    with PairedArithmetic():
        if operator._can_decompose():
            return operator.decompose(*args, **kwargs)
        decomposition = torch._decomp.decomposition_table.get(operator)
        if decomposition is None:
            raise UnsupportedComplexOp(operator)
        return decomposition(*args, **kwargs)


_LIBRARY = torch.library.Library("graphpress_complexes", "DEF")
_LIBRARY.define("matmul(Tensor a, Tensor b) -> Tensor")
_LIBRARY.impl("matmul", torch.matmul, "CompositeExplicitAutograd")

matmul: Any = torch.ops.graphpress_complexes.matmul.default
"""``torch.matmul`` of real tensors as one operator of a trace; a trace expands torch's own."""

RULES: dict[Any, Rule] = {}
"""The rules by operator; a rule returns NotImplemented for arguments that it does not cover."""

MAKERS: set[Any] = set()
"""The operators that make complex tensors of real ones."""


def rules(*operators: Any, makes_complex: bool = False) -> Callable[[Rule], Rule]:
    """Register a function as the rule of `operators`."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        MAKERS.update(operators if makes_complex else ())
        return rule

    return register


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the parts of a complex dtype, or a real dtype itself."""
    return dtype.to_real() if dtype.is_complex else dtype


def paired(value: Any, dtype: torch.dtype) -> Pair:
    """Return a tensor as a pair with parts of `dtype`; a real one has zeros as its imaginary part."""
    if isinstance(value, Pair):
        return value if value.re.dtype is dtype else Pair(value.re.to(dtype), value.im.to(dtype))
    re = value.to(dtype)
    return Pair(re, torch.zeros_like(re))
