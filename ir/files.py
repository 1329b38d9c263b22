"""Atomic replacement of files and folders.

Everything is written beside its target and renamed into place, so that an interrupted run or a full disk leaves the
previous contents. A failed write raises `FileError` with the path and the reason.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from graphpress.ir.errors import GraphpressError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS


class FileError(GraphpressError, OSError):
    """A file or folder that cannot be written.

    Attributes:
        path: the path.
        reason: the reason, such as ``No space left on device``.
    """

    def __init__(self, path: str | os.PathLike[str], reason: object):
        super().__init__(f"cannot write {os.fspath(path)}: {reason}")
        self.path, self.reason = Path(path), str(reason)

    def __reduce__(self) -> tuple[type[FileError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)

    @classmethod
    def of(cls, path: str | os.PathLike[str], error: OSError) -> FileError:
        """Make the error of a write to `path` that failed with `error`."""
        return cls(path, error.reason if isinstance(error, FileError) else error.strerror or error)


def write_file(path: str | os.PathLike[str], content: str | bytes | memoryview) -> None:
    """Write text (in UTF-8) or bytes to a file, atomically.

    Raises:
        FileError: when `path` cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content

    def write(beside: Path) -> None:
        with open(beside, "wb") as file:
            file.write(data)

    write_atomically(path, write)


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, then rename the file to `path`.

    If the run is interrupted or `write` raises, the previous file at `path` stays.

    Raises:
        FileError: when `path` cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # the mode of any new file; some writers create private ones
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise FileError.of(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: Path) -> None:
    """Raise if a file cannot be written at `path`, as far as can be known in advance.

    Raises:
        FileError: if its folder is missing or not writable, or `path` is a folder.
    """
    folder = path.parent
    if not folder.is_dir():
        raise FileError(path, f"there is no folder {str(folder)!r}")
    if path.is_dir():
        raise FileError(path, "it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(path, f"the folder {str(folder)!r} is not writable")


def make_folder(path: Path) -> None:
    """Make a folder and its parents if missing.

    Raises:
        FileError: when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError.of(path, error) from error


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` for building a folder; on success, that folder replaces `target`.

    Missing parents of `target` are made. If the body raises, the new folder and the new parents are removed,
    and `target` is unchanged.

    Raises:
        FileError: when nothing can be written beside `target`, or the new folder cannot be put in its place.
    """
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.stem}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise FileError.of(target, error) from error
    try:
        built = workshop / target.name
        yield built
        try:
            _put_in_place(built, target, workshop)
        except OSError as error:
            raise FileError.of(target, error) from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        if not target.exists():
            _remove_empty(missing)


def _put_in_place(built: Path, target: Path, workshop: Path) -> None:
    """Rename `built` to `target`; the previous folder moves to `workshop`, which the caller deletes."""
    if not os.path.lexists(target):
        built.rename(target)
    elif not _exchange(built, target):
        # Without an atomic swap, the old folder is absent for an instant, but never lost.
        old = target.rename(workshop / "old")
        try:
            built.rename(target)
        except OSError:
            old.rename(target)
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically; return False if the system or the file system does not support it."""
    names = os.fsencode(first), os.fsencode(second)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return library.renamex_np(*names, _RENAME_SWAP) == 0
        return library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    except (OSError, AttributeError):
        return False


def _remove_empty(folders: list[Path]) -> None:
    """Delete the `folders` that are empty, innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
