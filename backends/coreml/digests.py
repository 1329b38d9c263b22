"""Digests of a package's program and weights, so that damage to either is known when the package is read.

The format has no checksums of its own. Its manifest describes every item of a package in free text, and the digest of
an item stands there: tools that copy a package keep it, and those that write another program or other weights write
another manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphpress.backends.errors import AssetError
from graphpress.ir.atomic_write import write_atomically

MANIFEST = "Manifest.json"
_DIGEST = re.compile(r"sha256 ([0-9a-f]{64})")


def add_digests(directory: Path, spec: Any) -> None:
    """Write the digests of the package at `directory`, whose program is `spec`, into its manifest."""
    path = directory / MANIFEST
    manifest = json.loads(path.read_bytes())
    for entry, _, digest in _items(directory, manifest, spec):
        entry["description"] = f"{entry['description']}, sha256 {digest}"
    write_atomically(path, lambda beside: _write(beside, json.dumps(manifest, indent=4)))


def check_digests(directory: Path, spec: Any) -> None:
    """Compare the package at `directory`, whose program is `spec`, with the digests in its manifest, if there are any.

    Raises:
        AssetError: when something in the package is not what was written.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        items = list(_items(directory, manifest, spec))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise AssetError(f"{directory} is damaged: its {MANIFEST} cannot be read: {error}") from error
    for entry, item, digest in items:
        told = _DIGEST.search(str(entry.get("description")))
        if told is not None and told[1] != digest:
            raise AssetError(
                f"{directory} is damaged: {item.relative_to(directory)} is not what the digest in {MANIFEST} was made "
                "of; restore it from a copy, or convert the model again"
            )


def _items(directory: Path, manifest: Any, spec: Any) -> Iterator[tuple[dict[str, Any], Path, str]]:
    """The manifest's entries, where their items are, and what their digests are."""
    for identifier, entry in manifest["itemInfoEntries"].items():
        item = directory / "Data" / entry["path"]
        if not item.resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{entry['path']!r} is outside of the package")
        is_program = identifier == manifest["rootModelIdentifier"]
        yield entry, item, hashlib.sha256(_meaning(spec)).hexdigest() if is_program else _files_digest(item)


def _files_digest(item: Path) -> str:
    """The digest of a file, or of a folder's files with their names and sizes."""
    files = sorted(each for each in item.rglob("*") if each.is_file()) if item.is_dir() else [item]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(item.parent).as_posix()}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _meaning(spec: Any) -> bytes:
    """A program without what people may write about it: author, license, descriptions."""
    bare = type(spec)()
    bare.CopyFrom(spec)
    bare.description.ClearField("metadata")
    for feature in (*bare.description.input, *bare.description.output):
        feature.ClearField("shortDescription")
    return bytes(bare.SerializeToString(deterministic=True))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
