"""Atomic replacement of files and folders.

Everything is written in a temporary folder beside its target, synchronized with the disk and renamed into place, so
that an interrupted run or a full disk leaves the previous contents. A living writer holds a lock on its temporary
folder; the next write to the same target deletes those of dead writers. A failed write raises `FileError` with the path
and the reason.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from graphpress.ir.errors import GraphpressError

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]

_PARTIAL, _OLD = ".partial", ".old"  # of a temporary folder, and of what a target was
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS


class PathError(GraphpressError, TypeError, ValueError):
    """Something else in place of a path."""


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


def path_of(path: Any, what: str = "a path") -> Path:
    """Return what a user gave as a path; `what` names it in errors.

    Raises:
        PathError: if it is none.
    """
    try:
        found = Path(path)
    except TypeError:
        raise PathError(f"{what} is a str or a pathlib.Path, not a {type(path).__name__}") from None
    if "\0" in str(found):
        raise PathError(f"{what} has no null character, got {str(found)!r}")
    return found


def write_file(path: str | os.PathLike[str], content: str | bytes | memoryview) -> None:
    """Write text (in UTF-8) or bytes to a file, atomically.

    Raises:
        FileError: when `path` cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content

    def write(beside: Path) -> None:
        with open(beside, "wb") as file:
            file.write(data)

    write_atomically(path, write, data.nbytes if isinstance(data, memoryview) else len(data))


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None], size: int = 0) -> None:
    """Call `write` with a temporary path beside `path`, then rename the file to `path`.

    If the run is interrupted or `write` raises, the previous file at `path` stays. A symbolic link stays a link; the
    file that it points to is replaced. An existing file keeps its mode. The last of several writers wins.

    Args:
        path: the file.
        write: writes the whole file at the path that it gets.
        size: bytes that `write` needs, as far as known; checked against the free space before.

    Raises:
        FileError: when `path` cannot be written.
    """
    target = Path(os.path.realpath(path_of(path)))
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with _workshop(target) as workshop:
            check_space(target, size)
            temporary = workshop / target.name
            temporary.touch()
            mode = (target if target.exists() else temporary).stat().st_mode
            write(temporary)
            temporary.chmod(mode & 0o777)  # some writers create private files
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
    except OSError as error:
        raise FileError.of(path, error) from error


def write_scratch(path: str | os.PathLike[str], data: memoryview) -> None:
    """Write bytes to a new file that replaces `path`, for the running process only: the disk is not waited for.

    Who maps the file that was at `path` keeps its data. After a crash of the system the file may be incomplete.

    Raises:
        FileError: when `path` cannot be written; nothing is left then, and the file at `path` stays.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}{_PARTIAL}")
    try:
        check_space(target, data.nbytes)
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise FileError.of(path, error) from error
        raise


def check_space(path: Path, size: int) -> None:
    """Raise if the file system of `path` has fewer than `size` free bytes, or files may not be that large.

    Raises:
        FileError: with the bytes needed, and free or allowed.
    """
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)[0] if resource is not None else -1
    if 0 <= allowed < size:
        raise FileError(path, f"{os.strerror(errno.EFBIG)}: {size:,} bytes are needed, {allowed:,} are allowed")
    folder = next((each for each in path.absolute().parents if each.is_dir()), None)
    if not size or folder is None:
        return
    free = shutil.disk_usage(folder).free
    if free < size:
        raise FileError(path, f"{os.strerror(errno.ENOSPC)}: {size:,} bytes are needed, {free:,} are free")


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Exclude other writers that lock `folder`, where the system supports it; a dead writer holds no lock."""
    handle = _open_folder(folder)
    try:
        if handle is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


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
    place = Path(os.path.realpath(target))
    missing = [folder for folder in place.parents if not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        opened = _workshop(place)
        workshop = opened.__enter__()
    except OSError as error:
        _remove_empty(missing)
        raise FileError.of(target, error) from error
    try:
        built = workshop / place.name
        yield built
        try:
            for each in (*built.rglob("*"), built):
                _sync(each)
            _put_in_place(built, place, workshop)
            _sync(place.parent)
        except OSError as error:
            raise FileError.of(target, error) from error
    finally:
        opened.__exit__(None, None, None)
        if not place.exists():
            _remove_empty(missing)


@contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`, locked while its writer lives; it is deleted at the end.

    Those of dead writers of `target` are deleted first. Without file locks (Windows) they stay.
    """
    _remove_leftovers(target)
    while True:
        workshop = target.with_name(f".{target.name}.{uuid4().hex}{_PARTIAL}")
        workshop.mkdir(mode=0o700)
        lock = _open_folder(workshop)
        if lock is None:
            if not workshop.exists():  # taken for a leftover before it was open
                continue
            break
        if _is_locked(lock) and workshop.exists():
            break
        os.close(lock)  # taken for a leftover before it was locked
    try:
        yield workshop
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_leftovers(target: Path) -> None:
    """Delete the temporary folders of dead writers of `target`; restore what one of them had moved away."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}{re.escape(_PARTIAL)}")
    with suppress(OSError):
        for name in filter(pattern.fullmatch, os.listdir(target.parent)):
            left = target.with_name(name)
            lock = _open_folder(left)
            if lock is None:
                continue
            if _is_locked(lock):
                old = left / f"{target.name}{_OLD}"
                if old.exists() and not target.exists():
                    old.rename(target)
                shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _open_folder(folder: Path) -> int | None:
    """Open a folder for a lock; None where it cannot be opened, or the system has no file locks."""
    if fcntl is None:
        return None
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def _is_locked(handle: int) -> bool:
    """Lock an open folder; return False if another process or thread has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; folders where the system supports it."""
    if path.is_dir():
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _put_in_place(built: Path, target: Path, workshop: Path) -> None:
    """Rename `built` to `target`; the previous folder moves to `workshop`, which the caller deletes."""
    if not os.path.lexists(target):
        built.rename(target)
    elif not _exchange(built, target):
        # Without an atomic swap, the old folder is absent for an instant; the next save restores it after a kill.
        old = target.rename(workshop / f"{target.name}{_OLD}")
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
