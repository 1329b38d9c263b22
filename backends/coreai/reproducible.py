"""Saving of assets that depend on the model alone: names of resources by their order, and a date only if asked for.

The converter names the data of constants by hashes that are seeded per process, and stores the time of the save. The
container of MLIR bytecode (version 6) is a magic number, the version, the producer, and sections: an identifier whose
top bit says that the section is aligned, the length, the alignment with padding, and the content. Section 0 has the
strings: their number, their lengths from the last to the first, and their null-terminated bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graphpress.backends.coreai.asset import METADATA, PROGRAM
from graphpress.ir.files import FileError, write_file

_STRINGS, _ALIGNED, _PADDING = 0, 0x80, b"\xcb"
_NAME = re.compile(rb"resource_\d+\0")


def save_asset(converted: Any, asset: Path, created: datetime | None) -> None:
    """Save the converted program `converted` as an asset at `asset`, with `created` as its date, or none.

    The converter's writer ends the process when the disk is full. It writes to memory, where the system has files in
    memory; what it wrote is renamed there, and then written by ours. Elsewhere (macOS) it writes to the place of the
    program, for which callers check the space; another file system, such as that of temporary files, may be smaller.

    Raises:
        FileError: if a file cannot be written.
        RuntimeError: from the converter.
    """
    write = converted._save_bytecode

    def write_renamed(path: Path, **options: Any) -> None:
        write_file(path, renamed(_written(lambda place: write(place, **options), path)))

    converted._save_bytecode = write_renamed
    try:
        converted.save_asset(asset)
    except RuntimeError as error:
        cause = error.__cause__
        raise cause if isinstance(cause, OSError) else error from None
    finally:
        del converted._save_bytecode
    try:
        metadata = json.loads((asset / METADATA).read_bytes())
    except ValueError as error:  # the converter does not notice what the disk does not take
        raise FileError(asset / METADATA, f"the converter wrote half of it ({error}); is the disk full?") from error
    metadata.pop("creationDate", None)
    if created is not None:
        metadata["creationDate"] = created.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    write_file(asset / METADATA, json.dumps(metadata, indent=2, sort_keys=True))


def _written(write: Callable[[Path], None], path: Path) -> bytes:
    """Return what `write` writes: to a file in memory, or to `path` where the system has none."""
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
        write(path)
        written = path.read_bytes()
        path.unlink()  # the space that was checked is needed once
        return written
    with open(os.memfd_create(PROGRAM), "rb") as file:
        write(Path(f"/proc/self/fd/{file.fileno()}"))
        return file.read()


def renamed(program: bytes) -> bytes:
    """Return MLIR bytecode with the resources named ``resource_0``, ``resource_1`` and so on."""
    _, at = _number(program, 4)
    at = program.index(b"\0", at) + 1
    result = bytearray(program[:at])
    for identifier, alignment, content in _sections(program, at):
        inner = _renamed_strings(bytes(content)) if identifier == _STRINGS else content
        result.append(identifier | (_ALIGNED if alignment else 0))
        result += _varint(len(inner))
        if alignment:
            result += _varint(alignment)
            result += _PADDING * (-len(result) % alignment)
        result += inner
    return bytes(result)


def _sections(program: bytes, at: int) -> Iterator[tuple[int, int, memoryview]]:
    """Yield identifier, alignment (0 for none) and content of each section."""
    view = memoryview(program)
    while at < len(program):
        identifier, alignment = program[at], 0
        length, at = _number(program, at + 1)
        if identifier & _ALIGNED:
            alignment, at = _number(program, at)
            at += -at % alignment
        yield identifier & ~_ALIGNED, alignment, view[at : at + length]
        at += length


def _renamed_strings(section: bytes) -> bytes:
    count, at = _number(section, 0)
    lengths = []
    for _ in range(count):
        length, at = _number(section, at)
        lengths.append(length)
    strings, resources = [], 0
    for length in reversed(lengths):
        string = section[at : at + length]
        at += length
        if _NAME.fullmatch(string):
            string, resources = b"resource_%d\0" % resources, resources + 1
        strings.append(string)
    return b"".join((_varint(count), *(_varint(len(each)) for each in reversed(strings)), *strings))


def _number(content: bytes, at: int) -> tuple[int, int]:
    """Read a number whose low zero bits tell how many bytes follow; return it and the offset after it."""
    first = content[at]
    if not first:
        return int.from_bytes(content[at + 1 : at + 9], "little"), at + 9
    size = (first & -first).bit_length()
    return int.from_bytes(content[at : at + size], "little") >> size, at + size


def _varint(number: int) -> bytes:
    size = max(1, -(-number.bit_length() // 7))
    if size > 8:
        return b"\0" + number.to_bytes(8, "little")
    return ((number << size) | (1 << (size - 1))).to_bytes(size, "little")
