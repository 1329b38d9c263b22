"""Types of SSA values, and symbolic dimensions."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache

import torch
from attrs import field, frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.errors import GraphpressError


def _shape(shape: Iterable[Dim]) -> tuple[Dim, ...]:
    return tuple(dim if isinstance(dim, SymDim) else int(dim) for dim in shape)


@frozen(cache_hash=True)
class TensorType:
    """A dense tensor type, printed as ``f32[1, 3, s0, s0]``."""

    dtype: DType
    shape: tuple[Dim, ...] = field(converter=_shape)

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorType:
        """Return the type of a tensor with static dims."""
        return cls(DType.of(tensor.dtype), tensor.shape)

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @cached_property
    def is_static(self) -> bool:
        """True if no dim is symbolic."""
        return not any(isinstance(dim, SymDim) for dim in self.shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        """Return the type with another element type and the same shape."""
        return TensorType(dtype, self.shape)

    def at(self, values: Mapping[str, int]) -> TensorType:
        """Return the static type for the given symbol values."""
        return self if self.is_static else TensorType(self.dtype, [evaluate_dim(d, values) for d in self.shape])

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]"


@frozen
class ScalarType:
    """A Python number known only at run time, such as a dim.

    `kind` is ``int``, ``float`` or ``bool``; `value` is the equivalent expression, if known.
    """

    kind: str
    value: Dim | None = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}({self.value})"


@frozen
class OpaqueType:
    """Any other type in a graph (a token, a script object), which passes do not inspect."""

    description: str

    def __str__(self) -> str:
        return f"opaque({self.description!r})"


Type = TensorType | ScalarType | OpaqueType


class DimError(GraphpressError, ValueError):
    """A dimension expression that cannot be parsed or evaluated."""


@frozen
class SymDim:
    """An integer expression over symbols, in sympy syntax (``s0``, ``s0//2``, ``Max(1, s0)``)."""

    expression: str = field(converter=str)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names of the symbols in the expression, in order of first use."""
        return _compile(self.expression)[1]

    def evaluate(self, values: Mapping[str, int]) -> int:
        """Return the dim for the given symbol values.

        Raises:
            DimError: if a symbol has no value.
        """
        missing = [name for name in self.symbols if name not in values]
        if missing:
            raise DimError(f"no value for symbol {missing[0]!r} of dimension {self.expression!r}")
        return int(_compile(self.expression)[0](values))

    def __str__(self) -> str:
        return self.expression


Dim = int | SymDim


@frozen
class Symbol:
    """The range of one symbol and an example value (`hint`).

    `maximum` is None if there is no upper bound.
    """

    minimum: int
    maximum: int | None
    hint: int


def evaluate_dim(dim: Dim, values: Mapping[str, int]) -> int:
    """Return `dim` as a number, with its symbols replaced by `values`."""
    return dim if isinstance(dim, int) else dim.evaluate(values)


_FUNCTIONS: dict[str, Callable[..., int | float]] = {
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "PythonMod": lambda a, b: a % b,
    "Mod": lambda a, b: a % b,
    "ModularIndexing": lambda a, b, c: a // b % c,
    "CeilToInt": math.ceil,
    "CeilDiv": lambda a, b: -(-a // b),
    "FloorToInt": math.floor,
    "RoundToInt": round,
    "TruncToInt": math.trunc,
    "ceiling": math.ceil,
    "floor": math.floor,
    "IntTrueDiv": lambda a, b: a / b,
    "FloatTrueDiv": lambda a, b: a / b,
    "ToFloat": float,
    "PowByNatural": lambda a, b: a**b,
    "Max": max,
    "Min": min,
    "Abs": abs,
    "Identity": lambda a: a,
}

_OPERATORS: dict[type[ast.AST], Callable[..., int | float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Div: lambda a, b: a // b if a % b == 0 else a / b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}

_Evaluator = Callable[[Mapping[str, int]], int | float]


@lru_cache(maxsize=4096)
def _compile(expression: str) -> tuple[_Evaluator, tuple[str, ...]]:
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise DimError(f"cannot read dimension {expression!r}: {error.msg}") from None
    symbols: dict[str, None] = {}
    return _build(tree, symbols, expression), tuple(symbols)


def _build(node: ast.expr, symbols: dict[str, None], text: str) -> _Evaluator:
    match node:
        case ast.Constant(value=int() | float() as constant):
            return lambda _: constant
        case ast.Name(id=name):
            symbols[name] = None
            return lambda values: values[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _build(operand, symbols, text)
            return lambda values: -inner(values)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            function, a, b = (
                _OPERATORS[type(operator)],
                _build(left, symbols, text),
                _build(right, symbols, text),
            )
            return lambda values: function(a(values), b(values))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            function = _FUNCTIONS[name]
            inner_args = [_build(arg, symbols, text) for arg in args]
            return lambda values: function(*(arg(values) for arg in inner_args))
    raise DimError(f"cannot read dimension {text!r}: {ast.unparse(node)!r} is not supported in dimensions")
