"""Description of saved packages: digests, inputs and outputs, constants, operators and sizes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import attrs
import numpy as np

from graphpress.backends.coreml.dependency import quiet, require
from graphpress.backends.coreml.inference_bound import bounded_inference
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reader import program_errors_named
from graphpress.backends.saving import path_of
from graphpress.ir.dtypes import DType
from graphpress.ir.files import write_file
from graphpress.ir.folders import FolderError, check_contents, read_whole
from graphpress.ir.plain import parse_json

MANIFEST = "Manifest.json"
_DIGEST = re.compile(r"sha256 ([0-9a-f]{64})")


def add_digests(directory: Path, spec: Any) -> None:
    """Write the program `spec` and the digests of the package at `directory`, in bytes that depend on these alone.

    coremltools draws the identifiers of the items at random, and orders the maps of a program by hashes.
    """
    path = directory / MANIFEST
    manifest = json.loads(path.read_bytes())
    names = {}
    for identifier, entry in manifest["itemInfoEntries"].items():
        names[identifier] = str(uuid5(NAMESPACE_URL, f"graphpress:{entry['path']}"))
    for entry, item, digest in _items(directory, manifest, spec):
        entry["description"] = f"{entry['description']}, sha256 {digest}"
        if item.is_file():
            write_file(item, spec.SerializeToString(deterministic=True))
    manifest["itemInfoEntries"] = {names[key]: entry for key, entry in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    write_file(
        path, json.dumps(manifest, indent=4, sort_keys=True) + "\n"
    )  # as coremltools writes it when it opens the package


def check_digests(directory: Path, spec: Any) -> None:
    """Compare the package at `directory`, with the program `spec`, with the digests in its manifest, if any.

    Raises:
        AssetError: if a digest differs.
    """
    try:
        manifest = parse_json((directory / MANIFEST).read_bytes())
        items = list(_items(directory, manifest, spec))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise AssetError(f"{directory} is damaged: its {MANIFEST} cannot be read: {error}") from error
    for entry, item, digest in items:
        told = _DIGEST.search(str(entry.get("description")))
        if told is not None and told[1] != digest:
            raise AssetError(
                f"{directory} is damaged: {item.relative_to(directory)} does not match its digest in {MANIFEST}; "
                "restore it from a copy, or convert the model again"
            )


def _items(directory: Path, manifest: Any, spec: Any) -> Iterator[tuple[dict[str, Any], Path, str]]:
    """Yield the manifest's entries, with paths and digests of their items."""
    for identifier, entry in manifest["itemInfoEntries"].items():
        item = directory / "Data" / entry["path"]
        if not item.resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{entry['path']!r} is outside of the package")
        is_program = identifier == manifest["rootModelIdentifier"]
        yield entry, item, hashlib.sha256(_meaning(spec)).hexdigest() if is_program else _files_digest(item)


def _files_digest(item: Path) -> str:
    """Return the digest of a file, or of a folder's files with names and sizes."""
    files = sorted(each for each in item.rglob("*") if each.is_file()) if item.is_dir() else [item]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(item.parent).as_posix()}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _meaning(spec: Any) -> bytes:
    """Return the program without editable metadata: author, license, descriptions."""
    bare = type(spec)()
    bare.CopyFrom(spec)
    bare.description.ClearField("metadata")
    for feature in (*bare.description.input, *bare.description.output):
        feature.ClearField("shortDescription")
    return bytes(bare.SerializeToString(deterministic=True))


WEIGHTS = "weights/weight.bin"
_HEADER, _ALIGNMENT = 64, 64


@attrs.frozen
class StoredConstant:
    """A tensor in the weight file.

    Attributes:
        name: the name of the constant.
        dtype: the element type as stored.
        shape: the shape of the tensor.
        used_by: operator and operand of each use, such as ``constexpr_lut_to_dense.indices``.
        offset: the offset of its record in the weight file, shared by constants with equal content.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    used_by: tuple[str, ...]
    offset: int

    @property
    def stored_bytes(self) -> int:
        """Bytes of its data: ``ceil(numel * bits / 8)``."""
        bits = 1 if self.dtype is DType.BOOL else self.dtype.bits
        return -(-int(np.prod(self.shape, dtype=np.int64)) * bits // 8)


@attrs.frozen
class PackageInfo:
    """The content of a saved package.

    Attributes:
        path: the package's directory.
        target: the specification version it was written for.
        inputs, outputs: their names, in order.
        constants: the tensors in the weight file; small ones are in the program itself.
        operations: operator counts by name, without plain constants.
        stored_bytes: total bytes of its files.
        weight_file_bytes: bytes of the weight file.
        seconds: wall seconds of each stage of its conversion; empty for a package read from disk.
    """

    path: Path
    target: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[StoredConstant, ...]
    operations: Mapping[str, int]
    stored_bytes: int
    weight_file_bytes: int
    seconds: Mapping[str, float] = MappingProxyType({})

    @property
    def weight_bytes(self) -> int:
        """Bytes of the data in the weight file, each record counted once."""
        return sum(_records(self.constants).values())

    @property
    def weight_bytes_by_law(self) -> int:
        """The expected size of the weight file.

        A header, and for each record a header and the data, padded to 64 bytes except for the last one.
        """
        sizes = [size for _, size in sorted(_records(self.constants).items())]
        if not sizes:
            return 0
        padded = sum(_HEADER + -(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes[:-1])
        return _HEADER + padded + _HEADER + sizes[-1]


def _records(constants: tuple[StoredConstant, ...]) -> dict[int, int]:
    return {constant.offset: constant.stored_bytes for constant in constants}


def read(path: str | PathLike[str]) -> PackageInfo:
    """Describe the package at `path` from its files.

    Raises:
        AssetError: if there is none, or it is damaged.
        MissingDependencyError: if coremltools is not installed.
    """
    directory = path_of(path)

    def described() -> PackageInfo:
        spec = _spec(directory)
        with program_errors_named(directory):
            return _described(spec, directory)

    return read_whole(directory, described)


def load_program(path: str | PathLike[str]) -> Any:
    """Return the package's program as read by coremltools, with its weights.

    Raises:
        AssetError: if there is no package, or it is damaged.
    """
    directory = path_of(path)
    loader = require("coremltools.converters.mil.frontend.milproto.load")

    def loaded() -> Any:
        spec = _spec(directory)
        with program_errors_named(directory), quiet(), bounded_inference(_stored_bytes(directory)):
            return loader.load(spec, spec.specificationVersion, str(_data_folder(directory) / "weights"))

    return read_whole(directory, loaded)


def _spec(directory: Path) -> Any:
    """Return the specification of a package, after checking its digests, if any.

    Raises:
        AssetError: if there is no package, it is damaged, or it has no ML program.
    """
    coremltools = require()
    if not os.path.isfile(directory / MANIFEST):
        raise AssetError(f"{directory} is not a Core ML package: it has no {MANIFEST}")
    try:
        check_contents(directory)
    except FolderError as error:
        raise AssetError(str(error)) from error
    with program_errors_named(directory), quiet():
        # Not the package: coremltools writes the manifest of one that it opens, and follows it out of the folder.
        spec = coremltools.utils.load_spec(str(_program_file(directory)))
    check_digests(directory, spec)
    if spec.WhichOneof("Type") != "mlProgram":
        raise AssetError(f"{directory} holds a {spec.WhichOneof('Type')}, not an ML program")
    return spec


def _program_file(directory: Path) -> Path:
    """Return the file of a package's program, as its manifest names it.

    Raises:
        AssetError: if the manifest names none in the package.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        path = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        file = directory / "Data" / path
        if not file.resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{path!r} is outside of the package")
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise AssetError(f"{directory} is damaged: its {MANIFEST} cannot be read: {error}") from error
    return file


def _described(spec: Any, directory: Path) -> PackageInfo:
    program = spec.mlProgram
    (function,) = program.functions.values() if len(program.functions) == 1 else (program.functions["main"],)
    block = function.block_specializations[function.opset]
    uses: dict[str, list[str]] = {}
    operations: Counter[str] = Counter()
    for operation in block.operations:
        if operation.type != "const":
            operations[operation.type] += 1
        for operand, argument in operation.inputs.items():
            for binding in argument.arguments:
                uses.setdefault(binding.name, []).append(f"{operation.type}.{operand}")
    weights = _data_folder(directory) / WEIGHTS
    return PackageInfo(
        directory,
        spec.specificationVersion,
        tuple(each.name for each in spec.description.input),
        tuple(each.name for each in spec.description.output),
        tuple(_stored(block, uses)),
        MappingProxyType(dict(operations.most_common())),
        _stored_bytes(directory),
        weights.stat().st_size if weights.exists() else 0,
    )


def _stored_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _data_folder(directory: Path) -> Path:
    return directory / "Data" / "com.apple.CoreML"


def _stored(block: Any, uses: Mapping[str, list[str]]) -> Iterator[StoredConstant]:
    for operation in block.operations:
        for operand, value in _values(operation):
            if not value.HasField("blobFileValue"):
                continue
            name = operation.outputs[0].name
            used = (f"{operation.type}.{operand}",) if operation.type != "const" else tuple(uses.get(name, ()))
            type = value.type.tensorType
            shape = tuple(int(each.constant.size) for each in type.dimensions)
            label = name if operation.type == "const" else f"{name}.{operand}"
            yield StoredConstant(label, _element_type(type.dataType), shape, used, value.blobFileValue.offset)


def _values(operation: Any) -> Iterator[tuple[str, Any]]:
    yield from operation.attributes.items()
    for operand, argument in operation.inputs.items():
        for binding in argument.arguments:
            if binding.HasField("value"):
                yield operand, binding.value


def _element_type(number: int) -> DType:
    proto = require("coremltools.proto.MIL_pb2")
    name = proto.DataType.Name(number).lower()
    return DType.of({"float16": "float16", "bool": "bool"}.get(name, name))
