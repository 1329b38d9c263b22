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

# Modules of the other package without a module of the same name here, and the modules that have their names.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "_plugins": ("plugins",),
    "base_model_compressor": ("compressor", "export_backend", "config"),
    "casting.casting": ("casting",),
    "common": ("export_backend", "backends.errors", "config", "aliasing"),
    "config.compression_config": ("config",),
    **{f"config.spec{part}": ("config",) for part in ("", ".base", ".compression_simulator", ".factory")},
    "coreai_utils.common": ("coreai_utils.pipelines",),
    **{
        f"coreai_utils.passes{part}": ("coreai_utils",)
        for part in ("", ".weight_palettization", ".weight_quantization", ".weight_sparsification")
    },
    "inspection.model_inspector": ("inspection",),
    "palettization.base_palettizer": ("palettization",),
    "palettization.config.palettization_config": ("palettization.config", "palettization.spec"),
    **{
        f"palettization.kmeans{part}": ("palettization",)
        for part in ("", ".kmeans_fake_palettize", ".kmeans_support_mixins", ".palettizer", ".supported_ops_registry")
    },
    **{
        f"palettization.spec.{part}": ("palettization.spec",)
        for part in ("errors", "factory", "fake_palettize", "granularity", "spec", "training_strategy")
    },
    "pruning.base_pruner": ("pruning",),
    "pruning.config.magnitude_pruner_config": ("pruning.config", "pruning.spec"),
    "pruning.config.sparsity_schedule": ("pruning.config",),
    "pruning.magnitude_pruner": ("pruning",),
    **{f"pruning.spec.{part}": ("pruning.spec",) for part in ("prune", "scheme", "spec")},
    "pruning.supported_ops_registry": ("pruning",),
    "quantization.base_quantizer": ("quantization",),
    "quantization.config.quantization_config": ("quantization.config", "quantization.spec"),
    **{
        f"quantization.spec.{part}": ("quantization.spec",)
        for part in (
            "errors",
            "granularity",
            "qformulation",
            "qparams_calculator",
            "qscheme",
            "range_calculator",
            "spec",
        )
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


class DependencyVersionWarning(UserWarning):
    """A warning of the other package about versions, which scripts filter; graphpress does not issue it."""


class UntestedTorchVersionWarning(DependencyVersionWarning):
    """See `DependencyVersionWarning`."""


class TorchaoTorchIncompatibilityWarning(DependencyVersionWarning):
    """See `DependencyVersionWarning`."""


class AliasError(GraphpressError, ImportError):
    """The alias cannot be installed."""


def install_as_coreai_opt() -> None:
    """Make ``import coreai_opt`` and its submodules resolve to graphpress for the rest of this process.

    ``coreai_opt.x.y`` is the module object ``graphpress.x.y``, so its classes are identical. An installed `coreai_opt`
    is hidden. Scripts written for it may have config entries that never matched anything, so entries by name that match
    nothing now cause warnings instead of errors, like those by type. Scripts also go on with the model that they
    passed to a pruner, a palettizer or a quantizer in eager mode, so these compress it in place, unless ``copy=True``
    is passed to ``prepare``. Plugins of that package are called. Repeated calls have no effect.

    Raises:
        AliasError: if the other package is already imported.
    """
    from graphpress.compressor import set_in_place_by_default
    from graphpress.passes.config.unmatched import set_default_for_unmatched
    from graphpress.plugins import load_plugins

    loaded = sys.modules.get(ALIAS)
    if loaded is not None and loaded is not sys.modules[PACKAGE]:
        where = getattr(loaded, "__file__", None) or "an unknown location"
        raise AliasError(
            f"{ALIAS} is already imported from {where}; call graphpress.install_as_coreai_opt() before the first "
            f"import of {ALIAS}"
        )
    is_new = _install(_OtherPackage())
    set_default_for_unmatched("warn")
    set_in_place_by_default(True)
    if is_new:
        load_plugins()


def find_moved(fullname: str) -> ModuleSpec | None:
    """Return the spec of a module of this package for a former name, or None for other names.

    The first call also installs a finder for submodules of moved packages.
    """
    finder = _MovedModules()
    spec = finder.find_spec(fullname)
    if spec is not None:
        _install(finder)
    return spec


def _install(finder: _AliasFinder) -> bool:
    """Insert a finder at the front of `sys.meta_path`, unless it is there; others would load an alias a second time.

    Returns:
        whether it was inserted.
    """
    is_new = not any(isinstance(known, type(finder)) for known in sys.meta_path)
    if is_new:
        sys.meta_path.insert(0, finder)
    return is_new


class _AliasFinder(MetaPathFinder):
    """Base of import finders that resolve aliases."""

    @abstractmethod
    def real_names(self, fullname: str) -> tuple[str, ...]:
        """Return the modules that have the names of `fullname`, usually one; empty if it is not an alias."""

    def warning(self, fullname: str, real: str) -> str | None:
        """Return the warning to issue on import of the alias, or None."""
        return None

    def has_submodules(self, fullname: str) -> bool:
        """Return True if modules are found below the alias, although the real module is no package."""
        return False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of an alias, or None for other names and for modules that do not exist."""
        names = self.real_names(fullname)
        found = _spec_of(names[0]) if names else None
        if found is None:
            return None
        is_package = found.submodule_search_locations is not None or self.has_submodules(fullname)
        if len(names) > 1:
            return spec_from_loader(fullname, _ComposedLoader(names), origin=found.origin, is_package=is_package)
        loader = _AliasLoader(names[0], self.warning(fullname, names[0]), self.has_submodules(fullname))
        return spec_from_loader(fullname, loader, origin=found.origin, is_package=is_package)


class _OtherPackage(_AliasFinder):
    """Resolves ``coreai_opt.x`` to ``graphpress.x``."""

    def real_names(self, fullname: str) -> tuple[str, ...]:
        """Return the module of the same name in this package, or its replacements.

        For ``from coreai_opt import x`` the import system asks for ``graphpress.x``, by the name of the real package.
        """
        top, _, rest = fullname.partition(".")
        if fullname == ALIAS:
            return (PACKAGE,)
        if top not in (ALIAS, PACKAGE):
            return ()
        above, _, last = rest.rpartition(".")
        below = tuple(f"{name}.{last}" for name in _ELSEWHERE.get(above, ())[:1])
        names = _ELSEWHERE.get(rest) or (() if top == PACKAGE else below or (rest,))
        return tuple(f"{PACKAGE}.{name}" for name in names)

    def has_submodules(self, fullname: str) -> bool:
        """Return True if the table names modules below it."""
        return any(name.startswith(f"{fullname.partition('.')[2]}.") for name in _ELSEWHERE)


class _MovedModules(_AliasFinder):
    """Resolves former names ``graphpress.x`` by the table `MOVED`."""

    def real_names(self, fullname: str) -> tuple[str, ...]:
        """Return the present name of the module."""
        top, _, rest = fullname.partition(".")
        moved = _replaced(rest, MOVED) if top == PACKAGE else None
        return () if moved is None else (f"{PACKAGE}.{moved}",)

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

    def __init__(self, real: str, warning: str | None, has_submodules: bool):
        self._real = real
        self._warning = warning
        self._has_submodules = has_submodules
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
        if self._has_submodules and not hasattr(module, "__path__"):
            module.__path__ = []  # the import system asks for it before it looks for modules below

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the aliased module, for ``python -m``."""
        if self._warning is not None:
            warnings.warn(self._warning, DeprecationWarning, stacklevel=2)
        found = find_spec(self._real)
        loader: Any = None if found is None else found.loader
        code: CodeType | None = loader.get_code(self._real)
        return code


class _ComposedLoader(Loader):
    """Loader of a module with the names of several."""

    def __init__(self, names: tuple[str, ...]):
        self._names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the modules, and return a new one that looks names up in them, in order."""
        modules = [importlib.import_module(name) for name in self._names]
        composed = ModuleType(spec.name, f"The names of {', '.join(self._names)}.")

        def find(name: str) -> Any:
            for module in modules:
                if not name.startswith("__") and hasattr(module, name):
                    return getattr(module, name)
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")

        composed.__dict__["__getattr__"] = find
        return composed

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the modules have run."""
