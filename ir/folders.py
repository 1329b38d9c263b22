"""Reading of saved folders that others may have made, or may replace meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from graphpress.ir.errors import GraphpressError

T = TypeVar("T")
_ATTEMPTS = 100  # of a reader that finds the folder replaced under it
_MOST_ENTRIES = 100_000


class FolderError(GraphpressError, ValueError):
    """A folder with parts that are not read: links out of it, devices, pipes."""


def check_contents(folder: Path) -> None:
    """Check that a saved folder holds its own files only.

    A link could make a reader show what its user may read and the sender may not; a pipe blocks it, and a device has no
    end. Links within the folder are accepted, and so is a link to the folder itself.

    Raises:
        FolderError: at the first entry that is neither a file nor a folder in `folder`.
    """
    inside = os.path.realpath(folder) + os.sep
    for number, entry in enumerate(_entries(folder)):
        if number >= _MOST_ENTRIES:
            raise FolderError(f"{folder} has more than {_MOST_ENTRIES:,} entries")
        if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
            raise FolderError(f"{entry.path} links out of {folder}; it is not followed")
        if not os.path.isdir(entry.path) and not os.path.isfile(entry.path):
            raise FolderError(f"{entry.path} is neither a file nor a folder; it is not read")


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting: list[str | Path] = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:  # deleted meanwhile, or not readable: the reader says so
            continue


def read_whole(folder: Path, read: Callable[[], T]) -> T:
    """Return what `read` reads from `folder`; again when a writer replaced the folder meanwhile.

    Savers put a new folder in the place of the old one, so that files that are opened one after the other may be of two
    versions.
    """
    for _ in range(_ATTEMPTS):
        before = _state(folder)
        try:
            found = read()
        except GraphpressError:
            if _state(folder) == before:
                raise
        else:
            if _state(folder) == before:
                return found
    return read()


def _state(folder: Path) -> tuple[int, int] | None:
    """The identity of a folder, which changes whenever it is replaced; None for a missing one."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
