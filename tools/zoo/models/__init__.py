"""The architectures, by family; `find` imports only the module that defines one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from graphpress.tools.zoo.entry import ZooModel

_MODULES = (
    "language",
    "exporter",
    "mixtures",
    "encoders",
    "sequences",
    "vision",
    "detection",
    "audio",
    "spectral",
    "convolutional",
    "recurrent",
    "generative",
    "attention",
    "caches",
)


def every() -> Mapping[str, ZooModel]:
    """Return all architectures by name, in the order of the table."""
    found: dict[str, ZooModel] = {}
    for name in _MODULES:
        for model in importlib.import_module(f"{__name__}.{name}").MODELS:
            assert model.name not in found, f"two architectures are called {model.name}"
            found[model.name] = model
    return found
