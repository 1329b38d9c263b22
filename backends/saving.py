"""Write a directory beside its target and swap it into place, so that an interrupted save leaves the old one whole."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphpress.backends.errors import AssetError

MARKS = {".aimodel": "metadata.json", ".mlpackage": "Manifest.json"}
"""The directories that are replaced, by suffix, and the file that each kind has."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS


@contextmanager
def replacing(target: Path, suffix: str = ".aimodel") -> Iterator[Path]:
    """Yield a path beside `target` to build an asset directory at; on success it takes `target`'s place.

    Everything that can be known to fail is checked before the body runs: the suffix, a parent that cannot be
    written, and a target that is there but no asset (it is never deleted). When the body raises, the
    partial directory is removed and `target` is as it was.

    Raises:
        AssetError: when the asset cannot be written at `target`.
    """
    check_target(target, suffix)
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.stem}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise AssetError(f"cannot write an asset at {target}: {error.strerror or error}") from error
    try:
        built = workshop / target.name
        yield built
        try:
            _put_in_place(built, target, workshop)
        except OSError as error:
            raise AssetError(f"cannot move the finished asset to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        if not target.exists():
            _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    """Delete the `folders` that are empty, innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


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


def _put_in_place(built: Path, target: Path, workshop: Path) -> None:
    """Rename `built` to `target`; what was there before ends up in `workshop`, which the caller deletes."""
    if not os.path.lexists(target):
        built.rename(target)
    elif not _exchange(built, target):
        # No atomic swap on this system: the old asset is out of its place for an instant, but never lost.
        old = target.rename(workshop / "old")
        try:
            built.rename(target)
        except OSError:
            old.rename(target)
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically; False where the system or the file system cannot."""
    names = os.fsencode(first), os.fsencode(second)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return library.renamex_np(*names, _RENAME_SWAP) == 0
        return library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    except (OSError, AttributeError):
        return False
