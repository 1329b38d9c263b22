"""Import of coremltools on demand, since it is optional and slow to import."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from types import ModuleType

from graphpress.backends.errors import MissingDependencyError


def require(module: str = "coremltools") -> ModuleType:
    """Import `module` of coremltools, with an error that names the extra to install.

    Raises:
        MissingDependencyError: if the module cannot be imported.
    """
    with quiet():
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise MissingDependencyError(
                f"the Core ML backend needs 'coremltools', which cannot be imported ({error}); "
                "install it with: pip install 'graphpress[coreml]'"
            ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, and the warnings of coremltools and torchao about other packages."""
    loggers = [logging.getLogger(name) for name in ("coremltools", "torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
