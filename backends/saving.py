"""Where assets, which are directories, may be written, and how they replace older ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphpress.backends.errors import AssetError
from graphpress.ir import files
from graphpress.ir.files import FileError, PathError, replacing_folder

MARKS = {".aimodel": "metadata.json", ".mlpackage": "Manifest.json"}
"""The directories that are replaced, by suffix, and the file that each kind has."""


def path_of(path: Any) -> Path:
    """Return where an asset is, or will be.

    Raises:
        AssetError: for something that is no path, such as the example inputs in its place.
    """
    try:
        return files.path_of(path, "the path of an asset")
    except PathError as error:
        raise AssetError(str(error)) from None


@contextmanager
def replacing(target: Path, suffix: str = ".aimodel") -> Iterator[Path]:
    """Yield a path beside `target` to build an asset directory at; on success it takes `target`'s place.

    Everything that can be known to fail is checked before the body runs: the suffix, a parent that cannot be
    written, and a target that is there but no asset (it is never deleted). When the body raises, the
    partial directory is removed and `target` is as it was.

    Raises:
        AssetError: when the asset cannot be written at `target`.
    """
    try:
        check_target(target, suffix)
    except OSError as error:  # such as a name that is too long
        raise AssetError(f"cannot write an asset at {target}: {FileError.of(target, error).reason}") from error
    try:
        with replacing_folder(target) as built:
            yield built
    except FileError as error:
        if error.path != target:  # a file that the body writes
            raise
        raise AssetError(f"cannot write an asset at {target}: {error.reason}") from error


def check_target(target: Path, suffix: str) -> None:
    """Raise where no asset can be written at `target`, as far as that can be known before.

    Raises:
        AssetError: saying why.
    """
    if target.suffix != suffix:
        raise AssetError(f"an asset's path must end in {suffix!r}, got {str(target)!r}")
    if os.path.lexists(target) and not target.is_dir():
        raise AssetError(f"{target} is a file, but an asset is a directory; it is left alone: choose another path")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir():
        raise AssetError(f"cannot write an asset at {target}: {above} is a file, not a directory")
    if target.is_dir() and any(target.iterdir()) and not (target / MARKS[suffix]).exists():
        raise AssetError(f"{target} is a directory that holds no asset; it is left alone: choose another path")
