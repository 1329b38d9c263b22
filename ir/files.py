"""Files and folders that are replaced whole: a reader finds the old one or the new one, never half of one.

Everything is written beside its target and renamed into place, so that a run that is interrupted at any moment, or a
disk that fills up, leaves what was there before. What cannot be written is a `FileError` with the path and the reason.
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
        path: which.
        reason: why not, such as ``No space left on device``.
    """

    def __init__(self, path: str | os.PathLike[str], reason: object):
        super().__init__(f"cannot write {os.fspath(path)}: {reason}")
        self.path, self.reason = Path(path), str(reason)

    def __reduce__(self) -> tuple[type[FileError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)

    @classmethod
    def of(cls, path: str | os.PathLike[str], error: OSError) -> FileError:
        """The error of a write to `path` that ended with `error`."""
        return cls(path, error.reason if isinstance(error, FileError) else error.strerror or error)


def write_file(path: str | os.PathLike[str], content: str | bytes | memoryview) -> None:
    """Write text, in UTF-8, or bytes.

    Raises:
        FileError: when `path` cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content

    def write(beside: Path) -> None:
        with open(beside, "wb") as file:
            file.write(data)

    write_atomically(path, write)


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it to `path`.

    A run that is interrupted, or a `write` that raises, leaves what was at `path` as it was.

    Raises:
        FileError: when `path` cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # of any new file: some writers make theirs private
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise FileError.of(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: Path) -> None:
    """Raise where no file can be made at `path`, as far as that can be known before.

    Raises:
        FileError: when its folder is missing or closed, or a folder is there already.
    """
    folder = path.parent
    if not folder.is_dir():
        raise FileError(path, f"there is no folder {str(folder)!r}")
    if path.is_dir():
        raise FileError(path, "it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(path, f"the folder {str(folder)!r} is not writable")


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless it is there.

    Raises:
        FileError: when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError.of(path, error) from error


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to build a folder at; on success it takes the place of `target`.

    Missing parents of `target` are made. When the body raises, what it built and the parents made for it are removed,
    and `target` is as it was.

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
    """Rename `built` to `target`; what was there before ends up in `workshop`, which the caller deletes."""
    if not os.path.lexists(target):
        built.rename(target)
    elif not _exchange(built, target):
        # No atomic swap on this system: the old folder is out of its place for an instant, but never lost.
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


def _remove_empty(folders: list[Path]) -> None:
    """Delete the `folders` that are empty, innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
