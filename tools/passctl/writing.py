"""Files that commands write: known to be writable before the work starts, and whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

from graphpress.ir.atomic_write import write_atomically
from graphpress.tools.passctl.errors import PassctlError


def check_writable(path: Path) -> None:
    """Raise when no file can be made at `path`.

    Raises:
        PassctlError: when its folder is missing or closed, or a folder is there already.
    """
    folder = path.parent
    if not folder.is_dir():
        raise PassctlError(f"cannot write {path}: there is no folder {str(folder)!r}")
    if path.is_dir():
        raise PassctlError(f"cannot write {path}: it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PassctlError(f"cannot write {path}: the folder {str(folder)!r} is not writable")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        PassctlError: when it cannot be written.
    """
    try:
        write_atomically(path, lambda file: _fill(file, text))
    except OSError as error:
        raise PassctlError(f"cannot write {path}: {error.strerror or error}") from error


def _fill(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
