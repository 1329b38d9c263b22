"""Answer to the name `coreai_opt`, so that scripts and toolchains written for that package run on this one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType

from graphpress.ir.errors import GraphpressError
from graphpress.passes.config.unmatched import set_default_for_unmatched

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
    loaded = sys.modules.get(ALIAS)
    if loaded is not None and loaded is not sys.modules[PACKAGE]:
        where = getattr(loaded, "__file__", None) or "an unknown place"
        raise AliasError(
            f"{ALIAS} is imported already, from {where}; call graphpress.install_as_coreai_opt() before the first "
            f"import of {ALIAS}, or do without it"
        )
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())
    set_default_for_unmatched("warn")


class _AliasFinder(MetaPathFinder):
    """Finds ``coreai_opt.x`` where there is a ``graphpress.x``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of an alias; None for other names, and for modules that graphpress lacks."""
        top, _, rest = fullname.partition(".")
        if top != ALIAS:
            return None
        real = _real_name(rest)
        found = find_spec(real)
        if found is None:
            return None
        is_package = found.submodule_search_locations is not None
        return spec_from_loader(fullname, _AliasLoader(real), origin=found.origin, is_package=is_package)


def _real_name(rest: str) -> str:
    """The full name here of what follows ``coreai_opt.``; what lies below a module that is elsewhere lies there too."""
    if rest in _ELSEWHERE:
        rest = _ELSEWHERE[rest]
    else:
        above, _, last = rest.rpartition(".")
        if above in _ELSEWHERE:
            rest = f"{_ELSEWHERE[above]}.{last}"
    return f"{PACKAGE}.{rest}" if rest else PACKAGE


class _AliasLoader(Loader):
    """Gives the real module, which keeps its own spec."""

    def __init__(self, real: str):
        self._real = real
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The real module, imported."""
        module = importlib.import_module(self._real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; the import system has meanwhile put the alias's spec on it."""
        module.__spec__ = self._spec
