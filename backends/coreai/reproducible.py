"""Saved assets that depend on the model alone: names of resources by their order, and a date only if asked for.

The converter names the data of constants by hashes that are seeded per process, and stores the time of the save. The
container of MLIR bytecode (version 6) is a magic number, the version, the producer, and sections: an identifier whose
top bit says that the section is aligned, the length, the alignment with padding, and the content. Section 0 has the
strings: their number, their lengths from the last to the first, and their null-terminated bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from graphpress.backends.coreai.asset import DIGEST, METADATA, PROGRAM
from graphpress.ir.files import write_file

_STRINGS, _ALIGNED, _PADDING = 0, 0x80, b"\xcb"
_NAME = re.compile(rb"resource_\d+\0")


def make_reproducible(asset: Path, created: datetime | None) -> None:
    """Rename the resources of the asset at `asset` by their order, and store `created` as its date, or none."""
    program = renamed((asset / PROGRAM).read_bytes())
    write_file(asset / PROGRAM, program)
    write_file(asset / DIGEST, hashlib.sha256(program).digest())
    metadata = json.loads((asset / METADATA).read_bytes())
    metadata.pop("creationDate", None)
    if created is not None:
        metadata["creationDate"] = created.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    write_file(asset / METADATA, json.dumps(metadata, indent=2, sort_keys=True))


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
