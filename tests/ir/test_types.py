"""Types, and the arithmetic of symbolic dims."""

from __future__ import annotations

import math

import pytest
import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.types import (
    DimError,
    OpaqueType,
    ScalarType,
    SymDim,
    TensorType,
    evaluate_dim,
)

# expression, the values of its symbols, what it is: by hand
DIMS = [
    ("s0", {"s0": 7}, 7),
    ("s0 + 3", {"s0": 7}, 10),
    ("s0 - 9", {"s0": 7}, -2),
    ("3*s0", {"s0": 7}, 21),
    ("s0//2", {"s0": 7}, 3),
    ("s0 % 4", {"s0": 7}, 3),
    ("s0**2", {"s0": 7}, 49),
    ("-s0", {"s0": 7}, -7),
    ("s0/2", {"s0": 8}, 4),
    ("2*(s0/4)", {"s0": 6}, 3),  # a quotient that is no whole number is not cut
    ("2*s1 - s0", {"s0": 7, "s1": 2}, -3),
    ("FloorDiv(s0, 2)", {"s0": 7}, 3),
    ("CleanDiv(s0, 2)", {"s0": 8}, 4),
    ("PythonMod(s0, 4)", {"s0": -1}, 3),
    ("Mod(s0, 4)", {"s0": 7}, 3),
    ("ModularIndexing(s0, 3, 4)", {"s0": 29}, 1),
    ("CeilDiv(s0, 2)", {"s0": 7}, 4),
    ("CeilDiv(s0, 2)", {"s0": 8}, 4),
    ("CeilToInt(IntTrueDiv(s0, 2))", {"s0": 7}, 4),
    ("FloorToInt(IntTrueDiv(s0, 2))", {"s0": 7}, 3),
    ("RoundToInt(FloatTrueDiv(s0, 4))", {"s0": 7}, 2),
    ("TruncToInt(FloatTrueDiv(s0, 2))", {"s0": -7}, -3),
    ("ceiling(s0/2)", {"s0": 7}, 4),
    ("floor(s0/2)", {"s0": 7}, 3),
    ("FloorToInt(2*ToFloat(s0))", {"s0": 7}, 14),
    ("PowByNatural(s0, 2)", {"s0": 7}, 49),
    ("Max(1, s0)", {"s0": 0}, 1),
    ("Max(1, s0)", {"s0": 4}, 4),
    ("Min(3, s0)", {"s0": 7}, 3),
    ("Abs(s0 - 9)", {"s0": 7}, 2),
    ("Identity(s0)", {"s0": 7}, 7),
]


@pytest.mark.parametrize(("expression", "values", "expected"), DIMS, ids=[expression for expression, *_ in DIMS])
def test_a_dim_is_the_number_that_its_expression_is(expression, values, expected):
    found = SymDim(expression).evaluate(values)
    assert found == expected
    assert type(found) is int


def test_the_symbols_of_a_dim_are_named_once_each_in_order():
    assert SymDim("s2*s0 + Max(s2, s1) - 4").symbols == ("s2", "s0", "s1")
    assert SymDim("3").symbols == ()
    assert str(SymDim("s0//2")) == "s0//2"


def test_a_symbol_without_a_value_is_an_error():
    with pytest.raises(DimError, match=r"no value for symbol 's1' of dimension 's0 \+ s1'"):
        SymDim("s0 + s1").evaluate({"s0": 1})


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("s0 +", "cannot read dimension"),
        ("s0 if s1 else 2", "is not supported in dimensions"),
        ("exec('1')", "is not supported in dimensions"),
        ("Max(a=s0)", "is not supported in dimensions"),
        ("s0 & 1", "is not supported in dimensions"),
        ("+s0", "is not supported in dimensions"),
        ("'s0'", "is not supported in dimensions"),
    ],
)
def test_what_is_no_arithmetic_is_refused(expression, message):
    with pytest.raises(DimError, match=message):
        SymDim(expression).evaluate({"s0": 1, "s1": 1})


def test_a_tensor_type_says_what_a_tensor_is():
    found = TensorType.of(torch.zeros(2, 3, dtype=torch.int16))
    assert found == TensorType(DType.INT16, (2, 3))
    assert found.rank == 2
    assert found.is_static
    assert str(found) == "i16[2, 3]"
    assert found.with_dtype(DType.INT4) == TensorType(DType.INT4, [2, 3])
    assert TensorType(DType.FLOAT32, ()).rank == 0
    assert type(TensorType(DType.FLOAT32, torch.tensor([3])).shape[0]) is int


def test_symbolic_dims_take_numbers():
    dynamic = TensorType(DType.FLOAT32, (SymDim("s0"), 4, SymDim("2*s0")))
    assert not dynamic.is_static
    assert str(dynamic) == "f32[s0, 4, 2*s0]"
    assert dynamic.at({"s0": 3}) == TensorType(DType.FLOAT32, (3, 4, 6))
    static = TensorType(DType.FLOAT32, (1,))
    assert static.at({}) is static
    assert (evaluate_dim(5, {}), evaluate_dim(SymDim("s0"), {"s0": 2})) == (5, 2)


def test_types_are_equal_by_what_they_say():
    assert hash(TensorType(DType.INT8, (2,))) == hash(TensorType(DType.INT8, [2]))
    assert TensorType(DType.INT8, (2,)) != TensorType(DType.UINT8, (2,))
    assert TensorType(DType.INT8, (2,)) != TensorType(DType.INT8, (2, 1))
    assert ScalarType("int") != ScalarType("int", SymDim("s0"))


def test_types_that_are_no_tensors_print_what_is_known():
    assert str(ScalarType("int")) == "int"
    assert str(ScalarType("int", SymDim("s0 + 1"))) == "int(s0 + 1)"
    assert str(ScalarType("float", 3)) == "float(3)"
    assert str(OpaqueType("a 'token'")) == """opaque("a 'token'")"""


def test_large_numbers_stay_exact():
    assert SymDim("s0*s0/s0").evaluate({"s0": 2**40 + 1}) == 2**40 + 1
    assert math.isclose(SymDim("FloatTrueDiv(s0, 1)").evaluate({"s0": 5}), 5)
