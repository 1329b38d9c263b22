"""Constants of a program as tensors, and the reader used by op translations."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from attrs import define, field, frozen

from graphpress.backends.coreai import ops
from graphpress.backends.coreai.asset import element_type
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reader import Reader, Translations, opaque_op
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Value
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType

_PLAIN = {"f16", "f32", "f64", "si8", "si16", "si32", "si64", "ui8", "ui16", "ui32", "ui64"}
_BLOB = re.compile(rb'^\s*"?([\w.$-]+)"?: "0x([0-9A-Fa-f]*)"', re.MULTILINE)
_ALIGNMENT_BYTES = 4  # a blob starts with the alignment of its data, a 32-bit number
_NUMBER = re.compile(r"true|false|0x[0-9A-Fa-f]+|[-+]?\d[\d.]*(?:[eE][-+]?\d+)?")


@frozen(eq=False)
class StoredConstant:
    """A constant: its elements, in the IR's container dtype, and their type."""

    tensor: torch.Tensor
    dtype: DType


def blobs(operation: Any) -> dict[str, bytes]:
    """Return the data of the blobs of a module, by the names that constants refer to."""
    written = io.BytesIO()
    operation.print(file=written, binary=True)
    text = written.getbuffer()
    return {
        name.decode(): bytes.fromhex(digits.decode())[_ALIGNMENT_BYTES:]
        for name, digits in _BLOB.findall(text, bytes(text).rfind(b"dialect_resources:"))
    }


def stored_constant(attribute: Any, blobs_by_name: dict[str, bytes]) -> StoredConstant:
    """Return the constant for an attribute.

    Raises:
        AssetError: if its form is not supported.
    """
    ranked = ops.require("coreai._compiler.ir").RankedTensorType(attribute.type)
    shape = tuple(ranked.shape)
    element = str(ranked.element_type)
    dtype = element_type(element)
    text = str(attribute).rpartition(" : ")[0]
    kind, _, inside = text.partition("<")
    inside = inside.removesuffix(">")
    if kind == "dense_resource":
        return StoredConstant(_from_bytes(blobs_by_name[inside.strip('"')], dtype, shape), dtype)
    if kind != "dense":
        raise AssetError(f"a constant of the program has the unsupported form {text[:60]!r}")
    if element in _PLAIN:
        return StoredConstant(torch.from_numpy(np.array(attribute)).reshape(shape), dtype)
    if inside.startswith('"0x'):
        return StoredConstant(_from_bytes(bytes.fromhex(inside[3:-1]), dtype, shape), dtype)
    values = [_parsed(each, dtype) for each in _NUMBER.findall(inside)]
    codes = torch.tensor(values, dtype=torch.float64 if _holds_floats(dtype) else torch.int64)
    codes = (
        _float4_codes(codes)
        if dtype is DType.FLOAT4_E2M1FN
        else codes.to(torch.float32 if _holds_floats(dtype) else codes.dtype)
    )
    return StoredConstant(codes.to(dtype.torch_dtype).expand(math.prod(shape)).reshape(shape).clone(), dtype)


def _holds_floats(dtype: DType) -> bool:
    return not dtype.is_integer and dtype is not DType.BOOL


def _parsed(text: str, dtype: DType) -> float | int:
    if text in ("true", "false"):
        return int(text == "true")
    if text.startswith("0x"):  # the bits of a float without a decimal form
        bits = _from_bytes(int(text, 16).to_bytes(-(-dtype.bits // 8), "little"), dtype, (1,))
        return bits.double().item()
    return float(text) if _holds_floats(dtype) else int(text)


def _float4_codes(values: torch.Tensor) -> torch.Tensor:
    """Convert float4 values to codes: a sign bit and the index in this list."""
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    return torch.searchsorted(magnitudes, values.abs()) + 8 * values.signbit().long()


def _from_bytes(data: bytes, dtype: DType, shape: tuple[int, ...]) -> torch.Tensor:
    """Decode `data`: packed from the lowest bit if it is shorter, else at least one byte per element."""
    numel = math.prod(shape)
    bits = 1 if dtype is DType.BOOL else dtype.bits
    raw = np.frombuffer(data, np.uint8)
    if bits < 8:
        if len(raw) == -(-numel * bits // 8):
            ones = np.unpackbits(raw, bitorder="little")[: numel * bits].reshape(numel, bits)
            raw = (ones << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
        elif len(raw) != numel:
            raise AssetError(f"a constant of {numel} elements of {dtype.long_name} has {len(raw)} bytes")
        codes = torch.from_numpy(raw.copy())
        if dtype.is_integer and dtype.minimum < 0:
            codes = codes.to(torch.int8)
            codes = torch.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)
        return codes.to(dtype.torch_dtype).reshape(shape)
    if len(raw) * 8 != numel * bits:
        raise AssetError(f"a constant of {numel} elements of {dtype.long_name} has {len(raw)} bytes")
    return torch.from_numpy(raw.copy()).view(dtype.torch_dtype).reshape(shape)


Read = Value | StoredConstant
Translation = Callable[["AssetReader", Any], Read | tuple[Read, ...] | None]

translates: Translations[Translation] = Translations()
"""Translations by `short_name` of the op; a translation that returns None leaves the op opaque."""


def short_name(op: Any) -> str:
    """Return `add` for ``coreai.decomposable.broadcasting_add`` and ``coreai.add``, which both broadcast."""
    return str(op.name).removeprefix("coreai.").removeprefix("decomposable.").removeprefix("broadcasting_")


MOST_REPEATED = 2**26
"""Elements of all constants of a program that are one repeated value each, which takes a few bytes there."""
MOST_INVOKED = 1000
"""Ops that bodies stand for when they are put in place of their invocations, for each op of the program."""


@define(eq=False)
class AssetReader(Reader):
    """Reads operands of ops and adds nodes; constants are added when a node reads them."""

    blobs: dict[str, bytes] = field(factory=dict, kw_only=True)
    most_operations: int = field(kw_only=True)
    known: dict[Any, Read] = field(factory=dict, init=False)
    states: dict[Any, Value] = field(factory=dict, init=False)
    _entered: dict[StoredConstant, Value] = field(factory=dict, init=False)
    _translated: int = field(default=0, init=False)
    _repeated: int = field(default=0, init=False)

    def count_operation(self) -> None:
        """Count an op that is translated: bodies invoke others, and could stand for any number of ops.

        Raises:
            AssetError: if there are more than `most_operations`.
        """
        self._translated += 1
        if self._translated > self.most_operations:
            raise AssetError(f"the bodies that the program invokes stand for more than {self.most_operations} ops")

    def stored_constant(self, attribute: Any) -> StoredConstant:
        """Return the constant for an attribute.

        Raises:
            AssetError: if its form is not supported, or single repeated values stand for too many elements.
        """
        if getattr(attribute, "is_splat", False):
            self._repeated += math.prod(attribute.type.shape)
            if self._repeated > MOST_REPEATED:
                raise AssetError(f"repeated values of the program stand for more than {MOST_REPEATED} elements")
        return stored_constant(attribute, self.blobs)

    def value(self, operand: Any) -> Value:
        """Return the IR value of an operand."""
        found = self.known[operand]
        if not isinstance(found, StoredConstant):
            return found
        if found not in self._entered:
            self._entered[found] = self.constant(found.tensor, found.dtype)
        return self._entered[found]

    def constant(self, tensor: torch.Tensor, dtype: DType) -> Value:
        """Add a constant to the graph."""
        name = f"constant_{len(self.graph.constants)}"
        return self.graph.add_constant(name, tensor, "buffer", type=TensorType(dtype, tensor.shape)).value

    def origins(self) -> Iterator[tuple[Value, Any]]:
        """Yield the constants of the graph, each with its value in the program."""
        for operand, found in self.known.items():
            if isinstance(found, StoredConstant) and found in self._entered:
                yield self._entered[found], operand

    def tensor(self, operand: Any) -> torch.Tensor | None:
        """Return the data of an operand that depends on constants only, or None."""
        found = self.known[operand]
        return found.tensor if isinstance(found, StoredConstant) else _computed(found)

    def number(self, operand: Any) -> Any:
        """Return the data of a constant operand as Python numbers, or None."""
        tensor = self.tensor(operand)
        return None if tensor is None else tensor.tolist()

    def opaque(self, op: Any) -> tuple[Value, ...]:
        """Add a node for an op without translation, which can be inspected but not executed."""
        operands = tuple(self.value(operand) for operand in op.operands if operand in self.known)
        types = [tensor_type(result.type) for result in op.results if _is_tensor(result.type)]
        kind = opaque_op(f"aimodel.{short_name(op)}", len(types))
        return self.rewriter.insert_before(None, kind, {"operands": operands}, types=types).results


def tensor_type(type: Any) -> TensorType:
    """Return the IR type of an MLIR tensor; dynamic dims are 1."""
    ranked = ops.require("coreai._compiler.ir").RankedTensorType(type)
    shape = [1 if ranked.is_dynamic_dim(at) else size for at, size in enumerate(ranked.shape)]
    return TensorType(element_type(str(ranked.element_type)), shape)


def word(op: Any, attribute: str, default: str = "") -> str:
    """Return the word in an attribute such as ``#coreai.padding_mode<constant>``."""
    if attribute not in op.attributes:
        return default
    found = re.search(r"<\s*(\w+)\s*>", str(op.attributes[attribute]))
    return found[1] if found else default


def _computed(value: Value) -> torch.Tensor | None:
    if value.constant is not None:
        return value.constant.tensor
    if value.node is None or value.node.op.has(Trait.OPAQUE):
        return None
    read = {id(each): _computed(each) for _, _, each in value.node.operand_values()}
    if any(tensor is None for tensor in read.values()):
        return None
    found = evaluate_node(value.node, lambda each: read[id(each)])[value.index]
    return found if isinstance(found, torch.Tensor) else None


def _is_tensor(type: Any) -> bool:
    return str(type).startswith("tensor<")
