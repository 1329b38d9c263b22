"""The target forms of finalized models."""

from __future__ import annotations

import warnings
from enum import Enum, EnumMeta
from typing import Any

from graphpress.ir.errors import GraphpressError, suggestion

_OLD_NAMES = {"MLIR": "CoreAI", "MIL": "CoreML"}


class ExportBackendError(GraphpressError, ValueError):
    """A value does not name an export backend."""


class _OldNames(EnumMeta):
    """Resolves the former names `MLIR` and `MIL`, with a deprecation warning."""

    def __getattr__(cls, name: str) -> Any:
        if name in _OLD_NAMES:
            return cls[name]
        if name in cls.__dict__.get("_member_map_", {}):
            return cls._member_map_[name]
        raise AttributeError(f"{cls.__name__} has no {name!r}{suggestion(name, cls._member_map_)}")

    def __getitem__(cls, name: str) -> Any:
        if name in _OLD_NAMES:
            new = _OLD_NAMES[name]
            warnings.warn(f"{cls.__name__}.{name} is now {new}", DeprecationWarning, stacklevel=3)
            name = new
        return super().__getitem__(name)


class ExportBackend(Enum, metaclass=_OldNames):
    """The form of a finalized model; `MLIR` and `MIL` are former names of `CoreAI` and `CoreML`."""

    CoreAI = "coreai"
    """A program with exact codes, in Core AI ops: `graphpress.backends.coreai` saves it as an `.aimodel`,
    `graphpress.backends.coreml` as an `.mlpackage`."""

    CoreML = "coreml"
    """The metadata form: float parameters, and buffers ``_COREML_/<parameter>/<key>`` from which `coremltools.convert`
    recovers the codes."""

    Torch = "torch"
    """A plain torch model: weights are the dense values of the compressed ones, activations are fake-quantized."""

    @classmethod
    def _missing_(cls, value: object) -> ExportBackend | None:
        """Resolve the former values ``"mlir"`` and ``"mil"``, with a deprecation warning."""
        new = _OLD_NAMES.get(value.upper()) if isinstance(value, str) and value.islower() else None
        if new is None:
            return None
        warnings.warn(f"{cls.__name__}({value!r}) is now {new}", DeprecationWarning, stacklevel=2)
        return cls.__members__[new]

    @classmethod
    def of(cls, backend: ExportBackend | str) -> ExportBackend:
        """Return the backend for a member or for a name in any case.

        Raises:
            ExportBackendError: if there is no such backend.
        """
        if isinstance(backend, cls):
            return backend
        by_name = {name.lower(): name for name in [*cls.__members__, *_OLD_NAMES]}
        name = by_name.get(backend.lower()) if isinstance(backend, str) else None
        if name is None:
            raise ExportBackendError(
                f"{backend!r} is not an export backend{suggestion(str(backend), by_name)}; accepted: "
                + ", ".join(f"ExportBackend.{member}" for member in cls.__members__)
            )
        member: ExportBackend = cls[name]
        return member
