"""Description of saved assets: functions, constants, operators and sizes."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from graphpress.backends.coreai import ops
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reader import program_errors_named
from graphpress.backends.saving import path_of
from graphpress.ir.dtypes import DType
from graphpress.ir.folders import FolderError, check_contents, read_whole

PROGRAM, DIGEST, METADATA = "main.mlirb", "main.hash", "metadata.json"
"""The files of an asset: the program with its weights, the SHA-256 of that file, and the metadata."""

_BYTECODE = b"ML\xefR"  # prefix of MLIR bytecode

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
    """An input, output or state of a function; dynamic dims are None."""

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
    """A stored constant, with its uses as operator and operand (`lut_to_dense.indices`)."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    is_splat: bool
    used_by: tuple[str, ...]

    @property
    def bits(self) -> int:
        """Bits per element in the file."""
        return 1 if self.dtype is DType.BOOL else self.dtype.bits

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes of its data: `ceil(numel * bits / 8)`, or 0 for a splat (a single repeated value)."""
        return 0 if self.is_splat else -(-self.numel * self.bits // 8)


@attrs.frozen
class AssetInfo:
    """The content of a saved asset.

    Attributes:
        path: the asset's directory.
        functions: the entry points' signatures.
        constants: every stored constant, in program order.
        operations: operator counts by name, without constants (`conv2d`, `broadcasting_add`, ...).
        stored_bytes: total bytes of its files.
        seconds: wall seconds of each stage of its conversion; empty for an asset read from disk.
    """

    path: Path
    functions: tuple[FunctionInfo, ...]
    constants: tuple[ConstantInfo, ...]
    operations: Mapping[str, int]
    stored_bytes: int
    seconds: Mapping[str, float] = MappingProxyType({})

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants: the sum of `ceil(numel * bits / 8)`, without splats."""
        return sum(constant.stored_bytes for constant in self.constants)

    def function(self, name: str = "main") -> FunctionInfo:
        """Return the signature of an entry point.

        Raises:
            AssetError: if there is no such function.
        """
        for function in self.functions:
            if function.name == name:
                return function
        raise AssetError(f"{self.path} has no function {name!r}, only {[each.name for each in self.functions]}")


def read(path: str | PathLike[str]) -> AssetInfo:
    """Describe the asset at `path` from its files.

    Raises:
        AssetError: if there is none, or it is damaged.
        MissingDependencyError: if `coreai-core` is not installed.
    """
    program = open_program(path)
    constants: list[ConstantInfo] = []
    functions: list[FunctionInfo] = []
    operations: Counter[str] = Counter()
    with program_errors_named(path):
        # The module's wrapper owns the context, and must outlive the traversed operations.
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
    """Return the bytes of the constants of the asset at `path`, without splats."""
    return read(path).weight_bytes


def stored_bytes(path: str | PathLike[str]) -> int:
    """Return the total bytes of the files of the asset at `path`."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def open_program(path: str | PathLike[str]) -> Any:
    """Return the program of the asset at `path`, as an `AIProgram`, after checking its digest.

    Raises:
        AssetError: if there is none, or it is damaged.
    """

    def opened() -> Any:
        asset = open_asset(path)
        with program_errors_named(path):
            return asset.program

    return read_whole(path_of(path), opened)


def open_asset(path: str | PathLike[str]) -> Any:
    """Open the asset at `path` as an `AIModelAsset`, after checking its digest.

    The program reader terminates the process on damaged bytes.

    Raises:
        AssetError: if there is none, or it is damaged.
    """
    module = ops.require("coreai.authoring.asset")
    directory = path_of(path)
    try:
        check_contents(directory)
        program = (directory / PROGRAM).read_bytes()
        digest = (directory / DIGEST).read_bytes()
    except FolderError as error:
        raise AssetError(str(error)) from error
    except OSError as error:
        missing = "does not exist" if not os.path.lexists(directory) else f"is not a complete asset ({error})"
        raise AssetError(f"{directory} {missing}") from error
    if hashlib.sha256(program).digest() != digest:
        raise AssetError(f"{directory} is damaged: {PROGRAM} ({len(program)} bytes) does not match {DIGEST}")
    if not program.startswith(_BYTECODE):
        raise AssetError(f"{directory} has no program: {PROGRAM} is not MLIR bytecode")
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
    """Return True for bodies of composite operators, which other functions invoke."""
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
    # Only inline constants can be splats; blobs never are.
    return ConstantInfo(
        f"constant_{at}", tensor.dtype, tuple(value.type.shape), bool(getattr(value, "is_splat", False)), tuple(uses)
    )


def element_type(name: str) -> DType:
    """Return the element type for an MLIR name (`si8`, `ui4`, `f32`, `f8E4M3FN`, `i1`, ...)."""
    if name == "i1":
        return DType.BOOL
    return DType.of(name.removeprefix("s") if name.startswith("si") else name.replace("ui", "u").lower())
