"""How a config is applied to a model to be judged: which compressor, with which data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import field, frozen
from torch import nn

from graphpress.compressor import Compressor
from graphpress.export_backend import ExportBackend
from graphpress.passes.configs import CompressionConfig
from graphpress.search.errors import SearchError
from graphpress.search.metrics import digest_of, run
from graphpress.search.sizes import stored_bytes


@frozen(eq=False)
class Applied:
    """A compressed model: as it computes, and the bytes its constants take once it is finalized for Core AI."""

    model: nn.Module
    stored_bytes: int


@frozen(eq=False, kw_only=True)
class Compression:
    """A compressor with what it needs besides a model and a config.

    Attributes:
        compressor: the class, such as `KMeansPalettizer` or `Quantizer`.
        example_inputs: for `prepare`.
        calibration: inputs to run in `calibration_mode` after `prepare`, each a tensor, a tuple of arguments or a
            dictionary of them by name. With none, or where the config learns nothing from data, the mode is not
            entered.
        base: what happens to everything that is not searched, and settings such as `execution_mode`; by default a
            config that leaves everything whole.
        options: more arguments of `prepare`.
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
        """The base with more entries in `module_name_configs`; they come last, and so win."""
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
        """Of everything here: what was measured with something else does not count."""
        data = [self.example_inputs, list(self.calibration)]
        plain = {key: value for key, value in self.options.items() if key not in ("executor", "num_workers")}
        name = f"{self.compressor.__module__}.{self.compressor.__qualname__}"
        return digest_of([name, data, sorted(plain.items()), repr(self.base.to_dict())])


def with_entries(base: CompressionConfig, entries: Mapping[str, Any]) -> CompressionConfig:
    """A copy of `base` with more entries in `module_name_configs`, which come last, and so win."""
    config = type(base).from_dict(base.to_dict())
    for name, entry in entries.items():
        config.set_module_name(name, None if entry is None else attrs.evolve(entry))
    return config
