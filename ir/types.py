"""Types of SSA values, and symbolic dimensions."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

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

    @property
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
        return _compile(self.expression).symbols

    def evaluate(self, values: Mapping[str, int]) -> int:
        """Return the dim for the given symbol values.

        Raises:
            DimError: if a symbol has no value, or the expression has none: a division by zero, a huge power.
        """
        program = _compile(self.expression)
        missing = [name for name in program.symbols if name not in values]
        if missing:
            raise DimError(f"no value for symbol {missing[0]!r} of dimension {self.expression!r}")
        try:
            return int(program.run(values))
        except (ArithmeticError, TypeError, ValueError) as error:
            known = ", ".join(f"{name}={values[name]}" for name in program.symbols[:4])
            raise DimError(f"dimension {_shown(self.expression)} has no value at {known}: {error}") from None

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
    "PowByNatural": lambda a, b: _power(a, b),
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
    ast.Pow: lambda a, b: _power(a, b),
}

_MOST_BITS = 128  # of a number on the way to a dim, which has 64 at most
_SHOWN = 80

_Instruction = tuple[
    Callable[..., int | float] | None, Any
]  # a function and its argument count, or None and an operand


@frozen
class _Program:
    """A dimension expression in postfix order, which is evaluated without recursion."""

    instructions: tuple[_Instruction, ...]
    symbols: tuple[str, ...]

    def run(self, values: Mapping[str, int]) -> int | float:
        stack: list[int | float] = []
        for function, argument in self.instructions:
            if function is None:
                stack.append(values[argument] if isinstance(argument, str) else argument)
                continue
            operands = stack[len(stack) - argument :]
            del stack[len(stack) - argument :]
            result = function(*operands)
            if isinstance(result, int) and result.bit_length() > _MOST_BITS:
                raise OverflowError(f"a number of more than {_MOST_BITS} bits")
            stack.append(result)
        return stack[0]


def _power(base: int | float, exponent: int | float) -> int | float:
    """Return a power, without computing one of many more than `_MOST_BITS` bits."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > 2 * _MOST_BITS:
        if base not in (-1, 0, 1):
            raise OverflowError(f"a number of more than {_MOST_BITS} bits")
        return base ** (exponent % 2 + 2)
    return base**exponent


def _shown(expression: str) -> str:
    return repr(expression if len(expression) <= _SHOWN else f"{expression[:_SHOWN]}...")


@lru_cache(maxsize=4096)
def _compile(expression: str) -> _Program:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise DimError(f"cannot read dimension {_shown(expression)}: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise DimError(f"cannot read dimension {_shown(expression)}: it is nested too deeply") from None
    except ValueError as error:  # a null character, or half a surrogate pair
        raise DimError(f"cannot read dimension {_shown(expression)}: {error}") from None
    symbols: dict[str, None] = {}
    instructions: list[_Instruction] = []
    pending: list[ast.expr | _Instruction] = [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, tuple):
            instructions.append(part)
            continue
        instruction, operands = _instruction(part, expression)
        if isinstance(part, ast.Name):
            symbols[part.id] = None
        pending += [instruction, *reversed(operands)]
    return _Program(tuple(instructions), tuple(symbols))


def _instruction(node: ast.expr, text: str) -> tuple[_Instruction, list[ast.expr]]:
    match node:
        case ast.Constant(value=int() | float() as constant):
            return (None, constant), []
        case ast.Name(id=name):
            return (None, name), []
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return (operator.neg, 1), [operand]
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _OPERATORS:
            return (_OPERATORS[type(symbol)], 2), [left, right]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return (_FUNCTIONS[name], len(args)), args
    kind = type(node).__name__
    called = f"{node.func.id!r}" if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else f"a {kind}"
    raise DimError(f"cannot read dimension {_shown(text)}: {called} is not supported in dimensions")
