"""The layers of a mixed-precision search, and application of configs to a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import networkx
from attrs import field, frozen
from torch import nn

from graphpress.compressor import Compressor
from graphpress.export_backend import ExportBackend
from graphpress.ir.errors import suggestion
from graphpress.modules.sites import SUPPORTED_MODULES, StateSite, state_sites
from graphpress.passes.config import CompressionConfig
from graphpress.search.metrics import SearchError, digest_of, run
from graphpress.search.sizes import stored_bytes


@frozen
class Layer:
    """A unit that gets one candidate: a module with weights, or several modules that share weights.

    Attributes:
        name: the first of `modules`.
        modules: module names, as in `named_modules` and in configs.
        weights: number of elements of its weights (parameters of two axes or more); shared ones count once.
        float_bytes: their bytes uncompressed.
    """

    name: str
    modules: tuple[str, ...]
    weights: int
    float_bytes: int


def find_layers(model: nn.Module, names: Iterable[str] | None = None) -> tuple[Layer, ...]:
    """Return the layers of `model`, in module order.

    Args:
        model: the model.
        names: modules to search, which may be blocks of layers; a weight belongs to the innermost of them. None is
            every module of a class that compressors support.

    Raises:
        SearchError: if a name is not a module or a module without weights, or if there are no layers.
    """
    weights = [
        site for site in state_sites(model) if site.parameter.ndim >= 2 and not site.site.op_type.endswith("norm")
    ]
    wanted = _supported(weights) if names is None else _named(model, weights, names)
    sharing: Any = networkx.Graph()
    for site in weights:
        owner = _innermost(site.path, wanted)
        if owner is not None:
            sharing.add_edge(owner, id(site.parameter))
    if not sharing:
        raise SearchError(f"{type(model).__name__} has no layers with weights to divide precision among")
    order = {path: at for at, (path, _) in enumerate(model.named_modules(remove_duplicate=False))}
    parameters = {id(site.parameter): site.parameter for site in weights}
    layers = []
    for component in networkx.connected_components(sharing):
        modules = sorted((node for node in component if isinstance(node, str)), key=order.__getitem__)
        held = [parameters[node] for node in component if not isinstance(node, str)]
        layers.append(
            Layer(
                modules[0],
                tuple(modules),
                sum(parameter.numel() for parameter in held),
                sum(parameter.numel() * parameter.element_size() for parameter in held),
            )
        )
    return tuple(sorted(layers, key=lambda layer: order[layer.name]))


def entries(layers: Iterable[Layer], chosen: dict[str, Any], known: Sequence[str] = ()) -> dict[str, Any]:
    """Build `module_name_configs` entries with the module config of each layer, or None; outer modules come first.

    Args:
        layers: the layers.
        chosen: module configs by layer name; other layers are skipped.
        known: names of all modules; a name that matches others as a regular expression is escaped.
    """
    by_module = {module: chosen.get(layer.name) for layer in layers for module in layer.modules}
    known = known or list(by_module)
    return {_entry_name(module, known): by_module[module] for module in sorted(by_module, key=lambda m: m.count("."))}


def _supported(weights: Iterable[StateSite]) -> set[str]:
    return {site.path for site in weights if isinstance(site.module, SUPPORTED_MODULES)}


def _named(model: nn.Module, weights: Sequence[StateSite], names: Iterable[str]) -> set[str]:
    known = [path for path, _ in model.named_modules(remove_duplicate=False)]
    wanted = set(names)
    for name in wanted:
        if name not in known:
            raise SearchError(f"{name!r} is not a module of {type(model).__name__}{suggestion(name, known)}")
        if not any(_innermost(site.path, wanted) == name for site in weights):
            raise SearchError(f"module {name!r} has no weights beyond those of other listed modules")
    return wanted


def _innermost(path: str, wanted: set[str]) -> str | None:
    """Return the innermost of `wanted` that is `path` or contains it, or None."""
    while path not in wanted:
        if not path:
            return None
        path = path.rpartition(".")[0]
    return path


def _entry_name(module: str, known: Sequence[str]) -> str:
    others = any(other != module and re.fullmatch(module, other) for other in known)
    return re.escape(module) if others else module


@frozen(eq=False)
class Applied:
    """A compressed model, with the bytes of its constants when finalized for Core AI."""

    model: nn.Module
    stored_bytes: int


@frozen(eq=False, kw_only=True)
class Compression:
    """A compressor with its data and settings, except model and config.

    Attributes:
        compressor: the class, such as `KMeansPalettizer` or `Quantizer`.
        example_inputs: the example inputs of `prepare`.
        calibration: inputs to run in `calibration_mode` after `prepare`, each a tensor, a tuple of arguments or a
            dictionary of them by name. The mode is not entered if there are none, or if the config needs no data.
        base: the config of everything that is not searched, with settings such as `execution_mode`; by default a
            config that compresses nothing.
        options: further arguments of `prepare`.
    """

    compressor: type[Compressor[Any]]
    example_inputs: Any
    calibration: Sequence[Any] = ()
    base: CompressionConfig = field()
    options: Mapping[str, Any] = field(factory=dict)

    @base.default
    def _nothing(self) -> CompressionConfig:
        return self.compressor.config_class(global_config=None)

    @base.validator
    def _check(self, attribute: Any, value: Any) -> None:
        if not isinstance(value, self.compressor.config_class):
            wanted = self.compressor.config_class.__name__
            raise SearchError(f"base is a {type(value).__name__}; {self.compressor.__name__} takes a {wanted}")

    def config(self, entries: Mapping[str, Any]) -> CompressionConfig:
        """Return the base config with more entries in `module_name_configs`, which take precedence."""
        return with_entries(self.base, entries)

    def apply(self, model: nn.Module, config: CompressionConfig) -> Applied:
        """Compress a copy of `model`."""
        compressor = self.compressor(model, config)
        prepared = compressor.prepare(self.example_inputs, **self.options)  # type: ignore[attr-defined]
        if self.calibration and compressor.calibrates_on_data:
            with compressor.calibration_mode():  # type: ignore[attr-defined]
                for inputs in self.calibration:
                    run(prepared, inputs)
        finalized = compressor.finalize(backend=ExportBackend.CoreAI, mmap_dir=None)
        return Applied(prepared.eval(), stored_bytes(finalized, self.example_inputs))

    @property
    def digest(self) -> str:
        """Return a digest of all attributes, which identifies valid measurements."""
        data = [self.example_inputs, list(self.calibration)]
        plain = {key: value for key, value in self.options.items() if key not in ("executor", "num_workers")}
        name = f"{self.compressor.__module__}.{self.compressor.__qualname__}"
        return digest_of([name, data, sorted(plain.items()), repr(self.base.to_dict())])


def with_entries(base: CompressionConfig, entries: Mapping[str, Any]) -> CompressionConfig:
    """Copy `base` with more entries in `module_name_configs`, which take precedence."""
    config = type(base).from_dict(base.to_dict())
    for name, entry in entries.items():
        config.set_module_name(name, None if entry is None else attrs.evolve(entry))
    return config
