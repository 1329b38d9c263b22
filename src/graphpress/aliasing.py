"""Modules that answer to other names: to those they had before, and to `coreai_opt`'s.

An alias is the module itself, not a copy, so its classes are the same classes by either name.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import CodeType, ModuleType
from typing import Any

from graphpress.ir.errors import GraphpressError

ALIAS = "coreai_opt"
PACKAGE = "graphpress"

# Modules outside the documented interface that toolchains import from all the same, ExecuTorch among them.
_ELSEWHERE = {
    "common": "export_backend",
    "coreai_utils.common": "coreai_utils.pipelines",
    "palettization.kmeans": "palettization",
    **{
        f"quantization.spec.{part}": "quantization.spec"
        for part in ("granularity", "qformulation", "qparams_calculator", "qscheme", "range_calculator", "spec")
    },
}

MOVED = {
    "ir.generalize": "ir.torch.generalization",
    "passes.configs": "passes.config",
    "passes.facts": "passes.analysis.facts",
    "passes.framework.bisection": "passes.framework.debugging.bisection",
    "passes.fusion": "passes.analysis.fusion",
    "passes.specs": "passes.config",
    "tools.mixed_precision": "tools.bench.mixed_precision",
}
"""Modules that documents named and that lie elsewhere now, by their names below the package."""


class AliasError(GraphpressError, ImportError):
    """The alias cannot be installed."""


def install_as_coreai_opt() -> None:
    """Let ``import coreai_opt`` and its submodules resolve to graphpress, for the rest of this process.

    ``coreai_opt.x.y`` is the module ``graphpress.x.y`` itself, not a copy, so its classes are the same classes. An
    installed `coreai_opt` is hidden. Since scripts written for it may carry entries that never matched, entries by
    name that match nothing are warnings from now on, as those by type are. Calling this again does nothing.

    Raises:
        AliasError: when the other package is imported already, since parts of it are then in use.
    """
    from graphpress.passes.config.unmatched import set_default_for_unmatched

    loaded = sys.modules.get(ALIAS)
    if loaded is not None and loaded is not sys.modules[PACKAGE]:
        where = getattr(loaded, "__file__", None) or "an unknown place"
        raise AliasError(
            f"{ALIAS} is imported already, from {where}; call graphpress.install_as_coreai_opt() before the first "
            f"import of {ALIAS}, or do without it"
        )
    _install(_OtherPackage())
    set_default_for_unmatched("warn")


def find_moved(fullname: str) -> ModuleSpec | None:
    """The spec of a module of this package by a name it had before; None for other names.

    What lies below a moved package is found by its old name, too, from the first call on.
    """
    finder = _MovedModules()
    spec = finder.find_spec(fullname)
    if spec is not None:
        _install(finder)
    return spec


def _install(finder: _AliasFinder) -> None:
    """Put a finder first, so that nothing else finds the file of an alias and loads it as a second module; once."""
    if not any(isinstance(known, type(finder)) for known in sys.meta_path):
        sys.meta_path.insert(0, finder)


class _AliasFinder(MetaPathFinder):
    """Finds modules by names that are not their own."""

    @abstractmethod
    def real_name(self, fullname: str) -> str | None:
        """The name of the module that `fullname` is an alias of; None when it is no alias."""

    def warning(self, fullname: str, real: str) -> str | None:
        """What to say when the alias is imported; None when there is nothing to say."""
        return None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of an alias; None for other names, and for modules that do not exist."""
        real = self.real_name(fullname)
        found = None if real is None else _spec_of(real)
        if real is None or found is None:
            return None
        is_package = found.submodule_search_locations is not None
        loader = _AliasLoader(real, self.warning(fullname, real))
        return spec_from_loader(fullname, loader, origin=found.origin, is_package=is_package)


class _OtherPackage(_AliasFinder):
    """Finds ``coreai_opt.x`` where there is a ``graphpress.x``."""

    def real_name(self, fullname: str) -> str | None:
        """The module of the same name below this package, or the one that stands in for it."""
        top, _, rest = fullname.partition(".")
        if top != ALIAS:
            return None
        return f"{PACKAGE}.{_replaced(rest, _ELSEWHERE) or rest}" if rest else PACKAGE


class _MovedModules(_AliasFinder):
    """Finds ``graphpress.x`` where `MOVED` has ``x``."""

    def real_name(self, fullname: str) -> str | None:
        """Where the module lies now."""
        top, _, rest = fullname.partition(".")
        moved = _replaced(rest, MOVED) if top == PACKAGE else None
        return None if moved is None else f"{PACKAGE}.{moved}"

    def warning(self, fullname: str, real: str) -> str:
        """Names the new path."""
        return f"{fullname} is now {real}; import it from there"


def _spec_of(name: str) -> ModuleSpec | None:
    """The spec of a module; None where it, or a package it lies in, does not exist."""
    try:
        return find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(f"{error.name}."):
            raise
        return None


def _replaced(name: str, table: dict[str, str]) -> str | None:
    """`name` by its entry in `table`, or by that of the package it lies in; None when neither has one."""
    if name in table:
        return table[name]
    above, _, last = name.rpartition(".")
    return f"{table[above]}.{last}" if above in table else None


class _AliasLoader(Loader):
    """Gives the real module, which keeps its own spec."""

    def __init__(self, real: str, warning: str | None):
        self._real = real
        self._warning = warning
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The real module, imported."""
        if self._warning is not None:
            warnings.warn(self._warning, DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self._real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; the import system has meanwhile put the alias's spec on it."""
        module.__spec__ = self._spec

    def get_code(self, fullname: str) -> CodeType | None:
        """The code of the real module, for ``python -m``."""
        if self._warning is not None:
            warnings.warn(self._warning, DeprecationWarning, stacklevel=2)
        found = find_spec(self._real)
        loader: Any = None if found is None else found.loader
        code: CodeType | None = loader.get_code(self._real)
        return code
