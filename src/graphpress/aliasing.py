"""Import aliases of this package's modules: former names, and names in the package `coreai_opt`.

An alias is the same module object, not a copy, so its classes are identical under either name.
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

# Undocumented modules that toolchains such as ExecuTorch import nevertheless.
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
    "inspection.summary": "inspection.types",
    "ir.generalize": "ir.torch.generalization",
    "passes.configs": "passes.config",
    "passes.facts": "passes.analysis.facts",
    "passes.framework.bisection": "passes.framework.debugging.bisection",
    "passes.fusion": "passes.analysis.fusion",
    "passes.specs": "passes.config",
    "tools.mixed_precision": "tools.bench.mixed_precision",
}
"""Maps former module names to present ones, both relative to the package."""


class AliasError(GraphpressError, ImportError):
    """The alias cannot be installed."""


def install_as_coreai_opt() -> None:
    """Make ``import coreai_opt`` and its submodules resolve to graphpress for the rest of this process.

    ``coreai_opt.x.y`` is the module object ``graphpress.x.y``, so its classes are identical. An installed `coreai_opt`
    is hidden. Scripts written for it may have config entries that never matched anything, so entries by name that match
    nothing now cause warnings instead of errors, like those by type. Repeated calls have no effect.

    Raises:
        AliasError: if the other package is already imported.
    """
    from graphpress.passes.config.unmatched import set_default_for_unmatched

    loaded = sys.modules.get(ALIAS)
    if loaded is not None and loaded is not sys.modules[PACKAGE]:
        where = getattr(loaded, "__file__", None) or "an unknown location"
        raise AliasError(
            f"{ALIAS} is already imported from {where}; call graphpress.install_as_coreai_opt() before the first "
            f"import of {ALIAS}"
        )
    _install(_OtherPackage())
    set_default_for_unmatched("warn")


def find_moved(fullname: str) -> ModuleSpec | None:
    """Return the spec of a module of this package for a former name, or None for other names.

    The first call also installs a finder for submodules of moved packages.
    """
    finder = _MovedModules()
    spec = finder.find_spec(fullname)
    if spec is not None:
        _install(finder)
    return spec


def _install(finder: _AliasFinder) -> None:
    """Insert a finder at the front of `sys.meta_path`, unless it is there; others would load an alias a second time."""
    if not any(isinstance(known, type(finder)) for known in sys.meta_path):
        sys.meta_path.insert(0, finder)


class _AliasFinder(MetaPathFinder):
    """Base of import finders that resolve aliases."""

    @abstractmethod
    def real_name(self, fullname: str) -> str | None:
        """Return the module name that `fullname` is an alias of, or None if it is not an alias."""

    def warning(self, fullname: str, real: str) -> str | None:
        """Return the warning to issue on import of the alias, or None."""
        return None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of an alias, or None for other names and for modules that do not exist."""
        real = self.real_name(fullname)
        found = None if real is None else _spec_of(real)
        if real is None or found is None:
            return None
        is_package = found.submodule_search_locations is not None
        loader = _AliasLoader(real, self.warning(fullname, real))
        return spec_from_loader(fullname, loader, origin=found.origin, is_package=is_package)


class _OtherPackage(_AliasFinder):
    """Resolves ``coreai_opt.x`` to ``graphpress.x``."""

    def real_name(self, fullname: str) -> str | None:
        """Return the module of the same name in this package, or its replacement."""
        top, _, rest = fullname.partition(".")
        if top != ALIAS:
            return None
        return f"{PACKAGE}.{_replaced(rest, _ELSEWHERE) or rest}" if rest else PACKAGE


class _MovedModules(_AliasFinder):
    """Resolves former names ``graphpress.x`` by the table `MOVED`."""

    def real_name(self, fullname: str) -> str | None:
        """Return the present name of the module."""
        top, _, rest = fullname.partition(".")
        moved = _replaced(rest, MOVED) if top == PACKAGE else None
        return None if moved is None else f"{PACKAGE}.{moved}"

    def warning(self, fullname: str, real: str) -> str:
        """Return a message with the new path."""
        return f"{fullname} is now {real}; import it from there"


def _spec_of(name: str) -> ModuleSpec | None:
    """Return the spec of a module, or None if it or a parent package does not exist."""
    try:
        return find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(f"{error.name}."):
            raise
        return None


def _replaced(name: str, table: dict[str, str]) -> str | None:
    """Map `name` by its entry in `table` or by the entry of its parent package; None without an entry."""
    if name in table:
        return table[name]
    above, _, last = name.rpartition(".")
    return f"{table[above]}.{last}" if above in table else None


class _AliasLoader(Loader):
    """Loader that returns the aliased module, which keeps its own spec."""

    def __init__(self, real: str, warning: str | None):
        self._real = real
        self._warning = warning
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import and return the aliased module."""
        if self._warning is not None:
            warnings.warn(self._warning, DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self._real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec, which the import system has overwritten; the module has already run."""
        module.__spec__ = self._spec

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the aliased module, for ``python -m``."""
        if self._warning is not None:
            warnings.warn(self._warning, DeprecationWarning, stacklevel=2)
        found = find_spec(self._real)
        loader: Any = None if found is None else found.loader
        code: CodeType | None = loader.get_code(self._real)
        return code
