"""What was measured of every layer and candidate, as a value and as a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from graphpress.ir.errors import suggestion
from graphpress.ir.files import FileError, write_file
from graphpress.ir.plain import finite, from_plain, to_plain
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
    """A model, judged.

    Attributes:
        score: by the metric.
        stored_bytes: of all its constants.
        reason: why there is nothing of both: the compressor's error for a candidate that does not fit the layer.
    """

    score: float = math.nan
    stored_bytes: int = 0
    reason: str | None = None


@frozen
class Candidate:
    """A config for a layer, and what came of it with every other layer uncompressed; None before it was measured."""

    name: str
    config: ModuleCompressionConfig
    measurement: Measurement | None = None


@frozen
class Setting:
    """What measurements depend on besides layers and candidates: with another one they do not count.

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
    """How much every candidate costs and takes, layer by layer.

    Attributes:
        setting: what the measurements depend on.
        base: the config that recipes add entries to.
        baseline: the model with no layer compressed; None before it was measured.
        layers: the layers.
        candidates: of each layer, by its name.
        module_names: of the whole model.
    """

    setting: Setting
    base: CompressionConfig
    baseline: Measurement | None
    layers: tuple[Layer, ...]
    candidates: Mapping[str, tuple[Candidate, ...]]
    module_names: tuple[str, ...] = field(repr=False)

    @property
    def is_complete(self) -> bool:
        """True once nothing is left to measure."""
        return self.baseline is not None and not self.unmeasured()

    @property
    def weights(self) -> int:
        """Elements of the weights of all layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        """Bytes of the weights of all layers, uncompressed."""
        return sum(layer.float_bytes for layer in self.layers)

    def unmeasured(self) -> list[tuple[Layer, Candidate]]:
        """What is left to measure, in order."""
        return [
            (layer, candidate)
            for layer in self.layers
            for candidate in self.candidates[layer.name]
            if candidate.measurement is None
        ]

    def fitting(self, layer: Layer) -> tuple[Candidate, ...]:
        """The candidates of a layer that could be applied to it."""
        return tuple(
            c for c in self.candidates[layer.name] if c.measurement is not None and c.measurement.reason is None
        )

    def candidate(self, layer: str, name: str) -> Candidate:
        """A candidate by its layer's name and its own.

        Raises:
            SearchError: when there is none, with near names.
        """
        if layer not in self.candidates:
            raise SearchError(f"{layer!r} is no layer of the search{suggestion(layer, self.candidates)}")
        names = [candidate.name for candidate in self.candidates[layer]]
        if name not in names:
            raise SearchError(
                f"layer {layer!r} has no candidate {name!r}{suggestion(name, names)}; it has {', '.join(names)}"
            )
        return self.candidates[layer][names.index(name)]

    def cost(self, candidate: Candidate) -> float:
        """How much worse the score is with this candidate alone than with no layer compressed."""
        measured, baseline = candidate.measurement, self.baseline
        assert measured is not None
        assert baseline is not None
        difference = measured.score - baseline.score
        return -difference if self.setting.higher_is_better else difference

    def weight_bytes(self, layer: Layer, candidate: Candidate | None) -> int:
        """Bytes the weights of a layer take, tables, scales and zero points included; None is uncompressed.

        What the model takes less with this candidate alone is what the layer takes less.
        """
        if candidate is None or candidate.measurement is None or self.baseline is None:
            return layer.float_bytes
        return layer.float_bytes + candidate.measurement.stored_bytes - self.baseline.stored_bytes

    def with_baseline(self, measurement: Measurement) -> Sensitivities:
        """These, and the measurement of the model with no layer compressed."""
        return attrs.evolve(self, baseline=measurement)

    def with_measurement(self, layer: str, name: str, measurement: Measurement) -> Sensitivities:
        """These, and one more measurement."""
        changed = tuple(
            attrs.evolve(c, measurement=measurement) if c.name == name else c for c in self.candidates[layer]
        )
        return attrs.evolve(self, candidates={**self.candidates, layer: changed})

    def resumed_from(self, earlier: Sensitivities, path: object) -> Sensitivities:
        """These, with what `earlier` has measured of the same layers and candidates.

        Raises:
            SearchError: when `earlier`, which was read from `path`, was measured in another setting.
        """
        changed = [
            f"the {name} ({was!r}, now {now!r})" if name in ("metric", "higher_is_better") else f"the {name}"
            for name, was in attrs.asdict(earlier.setting).items()
            if was != (now := getattr(self.setting, name))
        ]
        if changed:
            raise SearchError(
                f"{str(path)!r} holds measurements of something else: {' and '.join(changed)} changed since; "
                "give another path, or remove the file"
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
        """Write a JSON file; an interrupted write leaves the old file whole."""
        plain = self._plain()
        text = json.dumps({**plain, "sha256": _digest(plain)}, indent=1, allow_nan=False)
        try:
            write_file(path, text)
        except FileError as error:
            raise SearchError(f"cannot write sensitivities to {str(path)!r}: {error.reason}") from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Sensitivities:
        """Read what `save` wrote. Nothing else is needed to make recipes of it.

        Raises:
            SearchError: when there is no such file, it holds something else, or something in it changed since.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SearchError(f"cannot read sensitivities from {str(path)!r}: {error.strerror or error}") from error
        except ValueError as error:
            raise SearchError(f"{str(path)!r} is no JSON file: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise SearchError(f"{str(path)!r} holds no sensitivities")
        if data.get("version") != _VERSION:
            raise SearchError(f"{str(path)!r} has version {data.get('version')!r} of its format; known: {_VERSION}")
        told = data.pop("sha256", None)
        if told is not None and told != _digest(data):
            raise SearchError(
                f"{str(path)!r} is damaged: it is not what its 'sha256' was made of; who changed it by hand takes that "
                "line out"
            )
        try:
            return cls._of(data)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
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
    """Candidates from a dictionary of module configs, or of their arguments.

    Raises:
        SearchError: when something in it is no module config.
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
