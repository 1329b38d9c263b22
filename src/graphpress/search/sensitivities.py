"""Measurements of every layer and candidate, and their files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import attrs
from attrs import field, frozen

from graphpress.ir.errors import suggestion
from graphpress.ir.files import FileError, path_of, write_file
from graphpress.ir.plain import finite, from_plain, parse_json, to_plain
from graphpress.passes.config import (
    CompressionConfig,
    KMeansPalettizerConfig,
    MagnitudePrunerConfig,
    ModuleCompressionConfig,
    QuantizerConfig,
)
from graphpress.search.layers import Layer
from graphpress.search.metrics import SearchError

_FORMAT, _VERSION = "graphpress sensitivities", 1
_CONFIGS: tuple[type[CompressionConfig], ...] = (QuantizerConfig, KMeansPalettizerConfig, MagnitudePrunerConfig)


@frozen
class Measurement:
    """The measurement of a model.

    Attributes:
        score: the metric's value.
        stored_bytes: bytes of all constants.
        reason: the compressor's error if the candidate does not fit the layer; there are no score and bytes then.
    """

    score: float = math.nan
    stored_bytes: int = 0
    reason: str | None = None


@frozen
class Candidate:
    """A config for a layer, with its measurement alone (all other layers uncompressed), or None before that."""

    name: str
    config: ModuleCompressionConfig
    measurement: Measurement | None = None


@frozen
class Setting:
    """The setting of measurements, which are valid for the same setting only.

    Attributes:
        model, compression: digests of the parameters and of the compressor with its data.
        metric: the name of the metric.
        higher_is_better: its direction.
    """

    model: str
    compression: str
    metric: str
    higher_is_better: bool


@frozen(eq=False)
class Sensitivities:
    """The cost and size of every candidate of every layer.

    Attributes:
        setting: the setting of the measurements.
        base: the config that recipes add entries to.
        baseline: the measurement with no layer compressed, or None before that.
        layers: the layers.
        candidates: the candidates by layer name.
        module_names: the names of all modules of the model.
    """

    setting: Setting
    base: CompressionConfig
    baseline: Measurement | None
    layers: tuple[Layer, ...]
    candidates: Mapping[str, tuple[Candidate, ...]]
    module_names: tuple[str, ...] = field(repr=False)

    @property
    def is_complete(self) -> bool:
        """True if everything is measured."""
        return self.baseline is not None and not self.unmeasured()

    @property
    def weights(self) -> int:
        """Number of elements of the weights of all layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        """Bytes of the weights of all layers, uncompressed."""
        return sum(layer.float_bytes for layer in self.layers)

    def unmeasured(self) -> list[tuple[Layer, Candidate]]:
        """Return the layers and candidates left to measure, in order."""
        return [
            (layer, candidate)
            for layer in self.layers
            for candidate in self.candidates[layer.name]
            if candidate.measurement is None
        ]

    def fitting(self, layer: Layer) -> tuple[Candidate, ...]:
        """Return the measured candidates of a layer that fit it."""
        return tuple(
            c for c in self.candidates[layer.name] if c.measurement is not None and c.measurement.reason is None
        )

    def candidate(self, layer: str, name: str) -> Candidate:
        """Return the candidate `name` of a layer.

        Raises:
            SearchError: if there is none; the message suggests similar names.
        """
        if layer not in self.candidates:
            raise SearchError(f"{layer!r} is not a layer of the search{suggestion(layer, self.candidates)}")
        names = [candidate.name for candidate in self.candidates[layer]]
        if name not in names:
            raise SearchError(
                f"layer {layer!r} has no candidate {name!r}{suggestion(name, names)}; it has {', '.join(names)}"
            )
        return self.candidates[layer][names.index(name)]

    def cost(self, candidate: Candidate) -> float:
        """Return the degradation of the score by this candidate alone."""
        measured, baseline = candidate.measurement, self.baseline
        assert measured is not None
        assert baseline is not None
        difference = measured.score - baseline.score
        return -difference if self.setting.higher_is_better else difference

    def weight_bytes(self, layer: Layer, candidate: Candidate | None) -> int:
        """Return the bytes of a layer's weights, including lookup tables, scales and zero points; None is uncompressed.

        The reduction of the model's bytes by this candidate alone is attributed to the layer.
        """
        if candidate is None or candidate.measurement is None or self.baseline is None:
            return layer.float_bytes
        return layer.float_bytes + candidate.measurement.stored_bytes - self.baseline.stored_bytes

    def with_baseline(self, measurement: Measurement) -> Sensitivities:
        """Return a copy with the measurement of the model with no layer compressed."""
        return attrs.evolve(self, baseline=measurement)

    def with_measurement(self, layer: str, name: str, measurement: Measurement) -> Sensitivities:
        """Return a copy with one more measurement."""
        changed = tuple(
            attrs.evolve(c, measurement=measurement) if c.name == name else c for c in self.candidates[layer]
        )
        return attrs.evolve(self, candidates={**self.candidates, layer: changed})

    def resumed_from(self, earlier: Sensitivities, path: object) -> Sensitivities:
        """Return a copy with the measurements of `earlier` for the same layers and candidates.

        Raises:
            SearchError: if `earlier`, which was read from `path`, has another setting.
        """
        changed = [
            f"the {name} ({was!r}, now {now!r})" if name in ("metric", "higher_is_better") else f"the {name}"
            for name, was in attrs.asdict(earlier.setting).items()
            if was != (now := getattr(self.setting, name))
        ]
        if changed:
            raise SearchError(
                f"{str(path)!r} holds measurements of another setting: {' and '.join(changed)} changed since; "
                "pass another path, or remove the file"
            )
        known = {layer.name: layer for layer in earlier.layers}
        resumed = attrs.evolve(self, baseline=earlier.baseline)
        for layer in self.layers:
            if known.get(layer.name) == layer:
                old = {(c.name, repr(c.config)): c.measurement for c in earlier.candidates[layer.name]}
                for c in self.candidates[layer.name]:
                    measurement = old.get((c.name, repr(c.config)))
                    if measurement is not None:
                        resumed = resumed.with_measurement(layer.name, c.name, measurement)
        return resumed

    def save(self, path: str | PathLike[str]) -> None:
        """Write a JSON file atomically."""
        plain = self._plain()
        text = json.dumps({**plain, "sha256": _digest(plain)}, indent=1, allow_nan=False)
        try:
            write_file(path, text)
        except FileError as error:
            raise SearchError(f"cannot write sensitivities to {str(path)!r}: {error.reason}") from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Sensitivities:
        """Read a file that `save` wrote, which is sufficient to make recipes.

        Raises:
            SearchError: if there is no such file, or it has another format or was modified.
        """
        try:
            data = parse_json(path_of(path).read_bytes())
        except OSError as error:
            raise SearchError(f"cannot read sensitivities from {str(path)!r}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise SearchError(f"{str(path)!r} is not a JSON file: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise SearchError(f"{str(path)!r} holds no sensitivities")
        if data.get("version") != _VERSION:
            raise SearchError(f"{str(path)!r} has version {data.get('version')!r} of its format; known: {_VERSION}")
        told = data.pop("sha256", None)
        if told is not None and told != _digest(data):
            raise SearchError(
                f"{str(path)!r} is damaged: it does not match its 'sha256'; after a deliberate edit, remove that line"
            )
        try:
            return cls._of(data)
        except (KeyError, TypeError, AttributeError, ValueError, StopIteration, RecursionError) as error:
            raise SearchError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}") from error

    def _plain(self) -> dict[str, Any]:
        plain = {
            "format": _FORMAT,
            "version": _VERSION,
            "setting": to_plain(self.setting),
            "base": self.base.to_dict(),
            "baseline": to_plain(self.baseline),
            "module_names": list(self.module_names),
            "layers": [
                to_plain(layer)
                | {
                    "candidates": {
                        c.name: {"config": c.config.to_dict(), "measurement": to_plain(c.measurement)}
                        for c in self.candidates[layer.name]
                    }
                }
                for layer in self.layers
            ],
        }
        return finite(plain)

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Sensitivities:
        config_class = next(cls_ for cls_ in _CONFIGS if cls_.top_keys[0] in data["base"])
        layers, candidates = [], {}
        for entry in data["layers"]:
            found = entry.pop("candidates")
            layer = from_plain(entry, Layer)
            layers.append(layer)
            candidates[layer.name] = tuple(
                Candidate(
                    name,
                    config_class.module_config_class.from_dict(candidate["config"]),
                    from_plain(candidate["measurement"], Measurement | None),
                )
                for name, candidate in found.items()
            )
        return cls(
            from_plain(data["setting"], Setting),
            config_class.from_dict(data["base"]),
            from_plain(data["baseline"], Measurement | None),
            tuple(layers),
            candidates,
            from_plain(data["module_names"], tuple[str, ...]),
        )


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def named(candidates: Mapping[str, Any], config_class: type[CompressionConfig], where: str) -> Sequence[Candidate]:
    """Build candidates from a dictionary of module configs or of their arguments.

    Raises:
        SearchError: if a value is not a module config.
    """
    made = []
    for name, config in candidates.items():
        wanted = config_class.module_config_class
        if isinstance(config, Mapping):
            config = wanted.from_dict(config)
        if not isinstance(config, wanted):
            raise SearchError(
                f"candidate {name!r} of {where} is a {type(config).__name__}; accepted: a {wanted.__name__}"
            )
        made.append(Candidate(str(name), config))
    if not made:
        raise SearchError(f"{where} has no candidates")
    return made
