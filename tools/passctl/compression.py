"""Compression by a YAML file: stages and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from attrs import frozen
from torch import nn
from torch.export import ExportedProgram

from graphpress.backends.comparison import CheckReport
from graphpress.compressor import mode_restored
from graphpress.export_backend import ExportBackend
from graphpress.ir.errors import GraphpressError
from graphpress.ir.plain import to_plain
from graphpress.palettization import KMeansPalettizer
from graphpress.passes.config import (
    KMeansPalettizerConfig,
    MagnitudePrunerConfig,
    QuantizerConfig,
    SkippedWeight,
    documents,
)
from graphpress.passes.config.base import CompressionConfig
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import Quantizer
from graphpress.tools.passctl.console import InputDataError, PassctlError, Stages
from graphpress.tools.passctl.models import Subject

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
        """Read the configs in a YAML file.

        Raises:
            PassctlError: if there is no config, or a top-level key looks like a misspelled one.
            SpecError: if the file cannot be read, or an entry is invalid (with its path).
        """
        with documents.reading(path) as data:
            for key in map(str, data):
                _check_key(key, path)
            given = {technique for key, technique in _KEYS.items() if key in data}
            if not given:
                raise PassctlError(f"{path} has no config: it has none of {', '.join(map(repr, _KEYS))} at its top")
            return cls(
                pruning=MagnitudePrunerConfig.from_dict(data) if "pruning" in given else None,
                palettization=KMeansPalettizerConfig.from_dict(data) if "palettization" in given else None,
                quantization=QuantizerConfig.from_dict(data) if "quantization" in given else None,
            )


def _check_key(key: str, path: Path) -> None:
    """Report unknown top-level keys that resemble a config's; others may hold anchors."""
    near = get_close_matches(key, _KEYS, n=1, cutoff=0.8)
    if near and key not in _KEYS:
        raise PassctlError(f"{path}: no technique is called {key!r}; did you mean {near[0]!r}?")


@frozen(eq=False)
class Compressed:
    """What a recipe made of a model.

    Attributes:
        model: the finalized module.
        skipped: weights that a config of the recipe means and that were not compressed by it.
    """

    model: nn.Module
    skipped: tuple[SkippedWeight, ...]


def run_recipe(
    subject: Subject,
    example_inputs: tuple[Any, ...],
    recipe: Recipe,
    backend: ExportBackend,
    batches: Iterable[tuple[torch.Tensor, ...]],
    stages: Stages,
) -> Compressed:
    """Prune weights of a model, palettize what is kept of them, then quantize what is left, as the recipe says.

    Raises:
        GraphpressError: from the compressors.
        InputDataError: if the model does not run on a batch.
    """
    skipped: list[SkippedWeight] = []
    model = subject.model()
    if recipe.pruning is not None:
        with stages.stage("prune"):
            pruner = MagnitudePruner(model, recipe.pruning)
            pruner.prepare(example_inputs)
            skipped += pruner.skipped_weights
            model = pruner.finalize(backend=backend)
    if recipe.palettization is not None:
        palettizer = KMeansPalettizer(model, recipe.palettization)
        with stages.stage("palettize"):
            palettized = palettizer.prepare(example_inputs)
            skipped += palettizer.skipped_weights
        if palettizer.calibrates_on_data:
            with stages.stage("weigh by activations"), palettizer.calibration_mode():
                _run(palettized, batches, stages)
        with stages.stage("finalize weights"):
            model = palettizer.finalize(backend=backend)
    if recipe.quantization is not None:
        quantizer = Quantizer(model, recipe.quantization)
        with stages.stage("prepare quantizers"):
            shapes = None if isinstance(model, ExportedProgram) else subject.dynamic_shapes()
            prepared = quantizer.prepare(example_inputs, shapes)
            skipped += quantizer.skipped_weights
        with stages.stage("calibrate"), quantizer.calibration_mode():
            _run(prepared, batches, stages)
        with stages.stage("finalize"):
            model = quantizer.finalize(backend=backend)
    assert isinstance(model, nn.Module)
    return Compressed(model, tuple(skipped))


def _run(prepared: nn.Module, batches: Iterable[tuple[torch.Tensor, ...]], stages: Stages) -> None:
    for number, batch in enumerate(batches, start=1):
        stages.note(f"calibrate, batch {number}")
        try:
            with torch.no_grad():
                prepared(*batch)
        except GraphpressError:
            raise
        except Exception as error:
            shapes = ", ".join("x".join(map(str, each.shape)) for each in batch)
            reason = str(error).strip().split("\n")[0]
            raise InputDataError(
                f"the model does not run on calibration batch {number} ({shapes}): {reason}"
            ) from error


@frozen
class CompressionReport:
    """The figures of one compression.

    Attributes:
        stored_bytes: bytes of all files of the asset.
        weight_bytes: bytes of its constants: the sum of ``ceil(numel * bits / 8)``.
        float_bytes: bytes of the float model's parameters and buffers.
        check: the comparison of the executed asset with the finalized module.
        drift: the root mean square error of the finalized module relative to the root mean square of the float model's
            output, on the example inputs.
        seconds: by stage.
        skipped: weights that a config means and that were not compressed by it.
    """

    stored_bytes: int
    weight_bytes: int
    float_bytes: int
    check: CheckReport
    drift: float
    seconds: Mapping[str, float]
    skipped: tuple[SkippedWeight, ...] = ()

    @property
    def ratio(self) -> float:
        """The ratio of float bytes to weight bytes."""
        return self.float_bytes / self.weight_bytes if self.weight_bytes else float("inf")

    def rows(self) -> list[tuple[str, str]]:
        """Return the figures as names and texts."""
        explained = [output.max_error_in_runtime_arithmetic for output in self.check.outputs]
        error = f"{self.check.max_error:.2g} of the output's range"
        if self.check.ok and any(each is not None for each in explained):
            error += f", {max(each or 0.0 for each in explained):.2g} with sums in the runtime's order"
        return [
            ("float weights", _bytes(self.float_bytes)),
            ("stored weights", _bytes(self.weight_bytes)),
            ("smaller by", f"{self.ratio:.2f}x"),
            ("asset on disk", _bytes(self.stored_bytes)),
            ("asset against finalized module", f"{error}: {'ok' if self.check.ok else 'MISMATCH'}"),
            ("finalized module against float", f"{self.drift:.2%} relative error"),
            ("seconds in all", f"{sum(self.seconds.values()):.1f}"),
        ]

    def data(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "stored_bytes": self.stored_bytes,
            "weight_bytes": self.weight_bytes,
            "float_weight_bytes": self.float_bytes,
            "ratio": self.ratio,
            "check": {
                "ok": self.check.ok,
                "tolerance": self.check.tolerance,
                "max_error": self.check.max_error,
                "problem": self.check.problem,
                "outputs": [to_plain(output) for output in self.check.outputs],
            },
            "relative_error_against_float": self.drift,
            "skipped": [each.data() for each in self.skipped],
            "seconds": dict(self.seconds),
        }


def float_bytes(model: nn.Module) -> int:
    """Return the bytes of all floating parameters and buffers, tied ones counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.is_floating_point())


def relative_error(model: nn.Module, other: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Return the root mean square difference of all floating outputs relative to `model`'s, both in eval mode."""
    before, after = _outputs(model, inputs), _outputs(other, inputs)
    if len(before) != len(after) or any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
        return float("inf")
    error = sum((a - b).square().sum().item() for a, b in zip(before, after, strict=True))
    signal = sum(a.square().sum().item() for a in before)
    return float((error / signal) ** 0.5) if signal else float(error**0.5)


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    with mode_restored(model), torch.no_grad():
        for module in model.modules():
            module.training = False
        leaves = pytree.tree_leaves(model(*inputs))
    return [leaf.double() for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit} ({count:,} bytes)"
    return f"{count} bytes"
