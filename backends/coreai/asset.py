"""Read a saved asset back: its functions, constants, operators, and what its weights cost."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from graphpress.backends.coreai import ops
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reader import understanding
from graphpress.ir.dtypes import DType

PROGRAM, DIGEST, METADATA = "main.mlirb", "main.hash", "metadata.json"
"""The files of an asset: the program with its weights, the SHA-256 of that file, and the metadata."""

_BYTECODE = b"ML\xefR"  # how MLIR bytecode begins

_OPERANDS = {
    "lut_to_dense": ("indices", "lut", "axis"),
    "blockwise_shift_scale": ("data", "scale", "zero_point", "minval"),
    "quantize": ("input", "scale", "zero_point", "minval", "axis"),
    "dequantize": ("input", "scale", "zero_point", "minval", "axis"),
    "build_sparse_with_bitmask": ("values", "mask"),
    "conv1d": ("input", "weight"),
    "conv2d": ("input", "weight"),
    "conv3d": ("input", "weight"),
    "conv_transpose2d": ("input", "weight"),
}


@attrs.frozen
class TensorInfo:
    """An input, output or state of a function. A dimension of None is free."""

    name: str
    dtype: DType
    shape: tuple[int | None, ...]


@attrs.frozen
class FunctionInfo:
    """The signature of one entry point."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    states: tuple[TensorInfo, ...] = ()


@attrs.frozen
class ConstantInfo:
    """A stored constant: `bits` per element, and `used_by` as operator and operand (`lut_to_dense.indices`)."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    is_splat: bool
    used_by: tuple[str, ...]

    @property
    def bits(self) -> int:
        """Bits one element takes in the file."""
        return 1 if self.dtype is DType.BOOL else self.dtype.bits

    @property
    def numel(self) -> int:
        """How many elements it holds."""
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes its data takes: `ceil(numel * bits / 8)`, and none for a splat, which is one value."""
        return 0 if self.is_splat else -(-self.numel * self.bits // 8)


@attrs.frozen
class AssetInfo:
    """What a saved asset holds.

    Attributes:
        path: the asset's directory.
        functions: the entry points' signatures.
        constants: every stored constant, in program order.
        operations: how many operators of each name, constants left out (`conv2d`, `broadcasting_add`, ...).
        stored_bytes: bytes of all its files.
        seconds: wall seconds of each part of the conversion that made it; empty for an asset read from disk.
    """

    path: Path
    functions: tuple[FunctionInfo, ...]
    constants: tuple[ConstantInfo, ...]
    operations: Mapping[str, int]
    stored_bytes: int
    seconds: Mapping[str, float] = MappingProxyType({})

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants: the sum of `ceil(numel * bits / 8)` over those that are no splat."""
        return sum(constant.stored_bytes for constant in self.constants)

    def function(self, name: str = "main") -> FunctionInfo:
        """The signature of an entry point."""
        for function in self.functions:
            if function.name == name:
                return function
        raise AssetError(f"{self.path} has no function {name!r}, only {[each.name for each in self.functions]}")


def read(path: str | PathLike[str]) -> AssetInfo:
    """Describe the asset at `path` from its file alone.

    Raises:
        AssetError: when there is none, or it is damaged.
        MissingDependencyError: when `coreai-core` is not installed.
    """
    asset = open_asset(path)
    constants: list[ConstantInfo] = []
    functions: list[FunctionInfo] = []
    operations: Counter[str] = Counter()
    with understanding(path):
        # The module's wrapper owns the context: it must live as long as the operations that are walked.
        program = asset.program
        for operation in _walk(program._module._mlir_module.operation):
            name = operation.name.removeprefix("coreai.").removeprefix("decomposable.")
            if name == "graph":
                if not _is_private(operation):
                    functions.append(_function(operation))
            elif name == "constant":
                constants.append(_constant(operation, len(constants)))
            elif name != "output":
                operations[name] += 1
    return AssetInfo(
        Path(path),
        tuple(functions),
        tuple(constants),
        MappingProxyType(dict(operations.most_common())),
        stored_bytes(path),
    )


def weight_bytes(path: str | PathLike[str]) -> int:
    """Bytes of the constants of the asset at `path` that are no splat: the sum of `ceil(numel * bits / 8)`."""
    return read(path).weight_bytes


def stored_bytes(path: str | PathLike[str]) -> int:
    """Bytes of all files of the asset at `path`."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def open_asset(path: str | PathLike[str]) -> Any:
    """The `AIModelAsset` at `path`, once its program is known to be the one that was written.

    The reader of the program ends the process on damaged bytes, so they are checked against their digest first.

    Raises:
        AssetError: when there is none, or it is damaged.
    """
    module = ops.require("coreai.authoring.asset")
    directory = Path(path)
    try:
        program = (directory / PROGRAM).read_bytes()
        digest = (directory / DIGEST).read_bytes()
    except OSError as error:
        missing = "does not exist" if not directory.exists() else f"is no complete asset ({error})"
        raise AssetError(f"{directory} {missing}") from error
    if hashlib.sha256(program).digest() != digest:
        raise AssetError(f"{directory} is damaged: {PROGRAM} ({len(program)} bytes) is not what {DIGEST} was made of")
    if not program.startswith(_BYTECODE):
        raise AssetError(f"{directory} holds no program: {PROGRAM} is no MLIR bytecode")
    try:
        return module.AIModelAsset.load(directory)
    except RuntimeError as error:
        raise AssetError(f"{directory} cannot be opened: {error}") from error


def _walk(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner
                yield from _walk(inner)


def _is_private(graph: Any) -> bool:
    """True for the bodies of composite operators, which other graphs invoke."""
    return "priv" in graph.attributes


def _function(operation: Any) -> FunctionInfo:
    name = operation.attributes["sym_name"].value
    kind = operation.attributes["function_type"].value
    inputs: list[TensorInfo] = []
    states: list[TensorInfo] = []
    for at, (type_, arg) in enumerate(zip(kind.inputs, operation.attributes["arg_attrs"], strict=True)):
        inner = getattr(type_, "inner_type", None)
        (inputs if inner is None else states).append(_tensor(type_ if inner is None else inner, _name(arg, at)))
    results = zip(kind.results, operation.attributes["res_attrs"], strict=True)
    outputs = [
        _tensor(type_, _name(result, at)) for at, (type_, result) in enumerate(results) if str(type_) != "!coreai.token"
    ]
    return FunctionInfo(name, tuple(inputs), tuple(outputs), tuple(states))


def _name(attributes: Any, at: int) -> str:
    return attributes["coreai.name"].value if "coreai.name" in attributes else f"#{at}"


def _tensor(type_: Any, name: str) -> TensorInfo:
    ranked = ops.require("coreai._compiler.ir").RankedTensorType(type_)
    shape = tuple(None if ranked.is_dynamic_dim(at) else size for at, size in enumerate(ranked.shape))
    return TensorInfo(name, element_type(str(ranked.element_type)), shape)


def _constant(operation: Any, at: int) -> ConstantInfo:
    value = operation.attributes["value"]
    tensor = _tensor(value.type, "")
    uses = []
    for use in operation.results[0].uses:
        user = use.owner.name.removeprefix("coreai.").removeprefix("decomposable.")
        names = _OPERANDS.get(user, ())
        operand = names[use.operand_number] if use.operand_number < len(names) else str(use.operand_number)
        uses.append(f"{user}.{operand}")
    # Only constants written out in the program know whether they are splats; blobs never are.
    return ConstantInfo(
        f"constant_{at}", tensor.dtype, tuple(value.type.shape), bool(getattr(value, "is_splat", False)), tuple(uses)
    )


def element_type(name: str) -> DType:
    """The element type the dialect calls `name` (`si8`, `ui4`, `f32`, `f8E4M3FN`, `i1`, ...)."""
    if name == "i1":
        return DType.BOOL
    return DType.of(name.removeprefix("s") if name.startswith("si") else name.replace("ui", "u").lower())
