"""What goes wrong while a saved model is understood, told as damage of that model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from graphpress.backends.errors import AssetError, MissingDependencyError


@contextmanager
def understanding(path: str | PathLike[str]) -> Iterator[None]:
    """Turn every error that the program of the model at `path` causes into one that names it.

    Raises:
        AssetError: in place of another one.
    """
    try:
        yield
    except (AssetError, MissingDependencyError):
        raise
    except Exception as error:
        raise AssetError(f"the program of {path} cannot be read: {type(error).__name__}: {error}") from error
