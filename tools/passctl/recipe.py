"""What a YAML file asks for: pruning, palettization, quantization, or several of them."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from attrs import frozen

from graphpress.passes.configs import KMeansPalettizerConfig, MagnitudePrunerConfig, QuantizerConfig, documents
from graphpress.passes.configs.base import CompressionConfig
from graphpress.tools.passctl.errors import PassctlError

_CONFIGS: dict[str, type[CompressionConfig]] = {
    "pruning": MagnitudePrunerConfig,
    "palettization": KMeansPalettizerConfig,
    "quantization": QuantizerConfig,
}
_KEYS = {key: technique for technique, cls in _CONFIGS.items() for key in cls.top_keys}


@frozen
class Recipe:
    """The configs of a compression; a technique without one is not applied."""

    pruning: MagnitudePrunerConfig | None = None
    palettization: KMeansPalettizerConfig | None = None
    quantization: QuantizerConfig | None = None

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The configs in a YAML file.

        Raises:
            PassctlError: when it asks for nothing, or a key at its top looks like a misspelled config.
            SpecError: when the file cannot be read, or naming the path of a wrong entry.
        """
        with documents.reading(path) as data:
            for key in map(str, data):
                _check_key(key, path)
            given = {technique for key, technique in _KEYS.items() if key in data}
            if not given:
                raise PassctlError(f"{path} asks for nothing: it has none of {', '.join(map(repr, _KEYS))} at its top")
            return cls(
                pruning=MagnitudePrunerConfig.from_dict(data) if "pruning" in given else None,
                palettization=KMeansPalettizerConfig.from_dict(data) if "palettization" in given else None,
                quantization=QuantizerConfig.from_dict(data) if "quantization" in given else None,
            )


def _check_key(key: str, path: Path) -> None:
    """Anchors may live under any key, so only one that is nearly a config's is taken for a mistake."""
    near = get_close_matches(key, _KEYS, n=1, cutoff=0.8)
    if near and key not in _KEYS:
        raise PassctlError(f"{path}: no technique is configured under {key!r}; did you mean {near[0]!r}?")
