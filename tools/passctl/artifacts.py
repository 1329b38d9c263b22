"""Saved models: output formats of the commands, and verification against the source model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import click
from attrs import frozen
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.comparison import BlameReport, CheckReport
from graphpress.backends.coreml import Target
from graphpress.backends.verification import WeightCheck, compare_weights, compressing_ops, constant_bytes, reference
from graphpress.ir.files import check_writable
from graphpress.ir.graph import Graph
from graphpress.ir.text.storage import SUFFIX, save_graph
from graphpress.tools.passctl.console import ModelArgumentError, PassctlError
from graphpress.tools.passctl.models import Subject

_SLACK_BYTES, _SLACK_SHARE = 2048, 0.02
"""Bytes of constants allowed beyond the model's: shapes and padding that a converter adds."""


@frozen
class ArtifactVerdict:
    """The result of a verification.

    Attributes:
        outputs: the comparison of the outputs.
        weights: for each weight of the model, whether it is in the artifact.
        operations: operator counts of the artifact by name.
        compressing: counts of ops that unpack weights or quantize activations, in the artifact and in the model.
        weight_bytes: bytes of the constants: of the artifact, and of the model when packed.
        file_bytes: bytes of the weight file, and the expected maximum for its constants.
        stored_bytes: bytes of all files.
    """

    outputs: CheckReport
    weights: tuple[WeightCheck, ...]
    operations: Mapping[str, int]
    compressing: tuple[Mapping[str, int], Mapping[str, int]]
    weight_bytes: tuple[int, int]
    file_bytes: tuple[int, int]
    stored_bytes: int

    @property
    def problems(self) -> list[str]:
        """Return one line per difference."""
        found = [] if self.outputs.ok else ["the outputs differ"]
        found += [
            f"weight {each.name} [{'x'.join(map(str, each.shape))}] is not in the artifact, bit for bit"
            for each in self.weights
            if each.same is False
        ]
        stored, meant = self.compressing
        found += [
            f"{stored.get(name, 0)} ops {name}, but the model has {meant[name]}"
            for name in sorted(meant)
            if stored.get(name, 0) < meant[name]
        ]
        bytes_stored, bytes_meant = self.weight_bytes
        if bytes_stored > bytes_meant * (1 + _SLACK_SHARE) + _SLACK_BYTES:
            found.append(f"the constants take {bytes_stored} bytes, but the model's take {bytes_meant} when packed")
        if self.file_bytes[0] > self.file_bytes[1]:
            found.append(
                f"the weight file has {self.file_bytes[0]} bytes; its constants account for {self.file_bytes[1]}"
            )
        return found

    @property
    def ok(self) -> bool:
        """True if there is no difference."""
        return not self.problems

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return table rows: property, artifact, model, remark."""
        same = sum(each.same is True for each in self.weights)
        folded = sum(each.same is None for each in self.weights)
        remark = f"{folded} with a norm folded in, not compared" if folded else ""
        stored, meant = self.compressing
        return [
            ("weights, bit for bit", str(same), str(len(self.weights)), remark),
            *((name, str(stored.get(name, 0)), str(meant.get(name, 0)), "") for name in sorted({*stored, *meant})),
            ("bytes of constants", str(self.weight_bytes[0]), str(self.weight_bytes[1]), ""),
            ("bytes of all files", str(self.stored_bytes), "", ""),
            ("operators", str(sum(self.operations.values())), "", _histogram(self.operations)),
        ]

    def data(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {
            "ok": self.ok,
            "problems": self.problems,
            "outputs": [
                {
                    "name": each.name,
                    "shape": list(each.shape),
                    "max_error": each.max_error,
                    "rms_error": each.rms_error,
                    "decibels": each.decibels if math.isfinite(each.decibels) else None,
                    "steps": each.steps,
                    "max_error_in_runtime_arithmetic": each.max_error_in_runtime_arithmetic,
                    "ok": each.within(self.outputs.tolerance),
                }
                for each in self.outputs.outputs
            ],
            "layers": None if self.outputs.layers is None else self.outputs.layers.data(),
            "weights": [{"name": each.name, "shape": list(each.shape), "same": each.same} for each in self.weights],
            "operations": dict(self.operations),
            "compressing": {"artifact": dict(self.compressing[0]), "model": dict(self.compressing[1])},
            "weight_bytes": {"artifact": self.weight_bytes[0], "model": self.weight_bytes[1]},
            "file_bytes": {"artifact": self.file_bytes[0], "accounted_for": self.file_bytes[1]},
            "stored_bytes": self.stored_bytes,
        }


def verify(path: Path, subject: Subject, tolerance: float | None) -> ArtifactVerdict:
    """Compare the artifact at `path` with its source model.

    Raises:
        ModelArgumentError: if `path` is not an artifact.
        AssetError: if the artifact is missing or damaged.
    """
    if path.suffix not in (".aimodel", ".mlpackage"):
        raise ModelArgumentError(f"{str(path)!r} is not an artifact; accepted: an .aimodel or an .mlpackage")
    stored, operations, weight_bytes, file_bytes, stored_bytes = (_asset if path.suffix == ".aimodel" else _package)(
        path
    )
    backend = coreai if path.suffix == ".aimodel" else coreml
    meant = reference(subject.graph())
    return ArtifactVerdict(
        backend.check(path, subject.module(), subject.example_inputs, tolerance),
        compare_weights(meant, stored),
        operations,
        (compressing_ops(stored), compressing_ops(meant)),
        (weight_bytes, constant_bytes(meant)),
        file_bytes,
        stored_bytes,
    )


def blamed(path: Path, subject: Subject) -> BlameReport:
    """Find the first operator of `subject` whose output differs in the artifact at `path`."""
    backend = coreai if path.suffix == ".aimodel" else coreml
    return backend.blame(path, subject.module(), subject.example_inputs)


Parts = tuple[Graph, Mapping[str, int], int, tuple[int, int], int]


def _asset(path: Path) -> Parts:
    info = coreai.read(path)
    # Each operator and constant is stored with its types and its location in the model.
    described = 4096 + 1024 * (len(info.constants) + sum(info.operations.values()))
    program = (path / "main.mlirb").stat().st_size
    limits = program, info.weight_bytes + described
    return coreai.from_asset(path), info.operations, info.weight_bytes, limits, info.stored_bytes


def _package(path: Path) -> Parts:
    info = coreml.read(path)
    limits = info.weight_file_bytes, info.weight_bytes_by_law
    return coreml.from_package(path), info.operations, info.weight_bytes, limits, info.stored_bytes


def _histogram(operations: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in operations.items())


class Saved(Protocol):
    """The description of a saved model."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of all files."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the constants."""


class Destination(Protocol):
    """A runtime with its file format."""

    @property
    def suffix(self) -> str:
        """The suffix of its files."""

    def convert(self, model: nn.Module | Graph, path: Path, example_inputs: Any, dynamic_shapes: Any = None) -> Saved:
        """Convert and save a finalized model, or a graph, which needs no inputs."""

    def check(self, path: Path, model: nn.Module, example_inputs: tuple[Any, ...]) -> CheckReport:
        """Compare the saved model with its source."""


@frozen
class CoreaiAsset:
    """`.aimodel` assets, executed by the runtime."""

    suffix: str = ".aimodel"

    def convert(self, model: nn.Module | Graph, path: Path, example_inputs: Any, dynamic_shapes: Any = None) -> Saved:
        """Convert and save; see `graphpress.backends.coreai.convert`."""
        return coreai.convert(model, path, example_inputs, dynamic_shapes)

    def check(self, path: Path, model: nn.Module, example_inputs: tuple[Any, ...]) -> CheckReport:
        """Compare; see `graphpress.backends.coreai.check`."""
        return coreai.check(path, model, example_inputs)


@frozen
class CoremlPackage:
    """`.mlpackage`s, whose programs are imported and evaluated."""

    target: Target
    suffix: str = ".mlpackage"

    def convert(self, model: nn.Module | Graph, path: Path, example_inputs: Any, dynamic_shapes: Any = None) -> Saved:
        """Convert and save; see `graphpress.backends.coreml.convert`."""
        return coreml.convert(model, path, example_inputs, dynamic_shapes, target=self.target)

    def check(self, path: Path, model: nn.Module, example_inputs: tuple[Any, ...]) -> CheckReport:
        """Compare; see `graphpress.backends.coreml.check`."""
        return coreml.check(path, model, example_inputs)


def destination(backend: str, target: str | None) -> Destination:
    """Return the destination for the options.

    Raises:
        click.UsageError: for a target of a backend without targets.
        TargetError: for an unknown target of Core ML.
    """
    if backend == "coreml":
        return CoremlPackage(Target.of(target or Target.iOS18))
    if target is not None:
        raise click.UsageError("--target is for --backend coreml")
    return CoreaiAsset()


_ARTIFACTS = {".aimodel": "coreai", ".mlpackage": "coreml"}


class GraphDestination(Protocol):
    """An output format for graphs."""

    def check(self, model: str) -> None:
        """Raise if the graph of `model` cannot be saved, before any work."""

    def save(self, graph: Graph) -> None:
        """Write the graph atomically."""


def destination_of(output: Path, target: str | None) -> GraphDestination:
    """Return the output format for the suffix of `output`.

    Raises:
        click.UsageError: for an unknown suffix, or a target for a format without targets.
        TargetError: for an unknown target of Core ML.
    """
    if output.suffix in _ARTIFACTS:
        return _Artifact(output, target)
    if output.suffix != SUFFIX:
        accepted = ", ".join(f"*{suffix}" for suffix in (SUFFIX, *_ARTIFACTS))
        raise click.UsageError(f"{str(output)!r} has no supported suffix; accepted: {accepted}")
    if target is not None:
        raise click.UsageError("--target is for an output that ends in .mlpackage")
    return _GraphFile(output)


@frozen
class _GraphFile:
    output: Path

    def check(self, model: str) -> None:
        check_writable(self.output)

    def save(self, graph: Graph) -> None:
        save_graph(graph, self.output)


@frozen
class _Artifact:
    output: Path
    target: str | None

    def __attrs_post_init__(self) -> None:

        destination(_ARTIFACTS[self.output.suffix], self.target)

    def check(self, model: str) -> None:
        """Raise if the artifact has features that a graph cannot represent, and that would be lost."""
        from graphpress.backends import coreai, coreml, saving

        saving.check_target(self.output, self.output.suffix)
        backend = {".aimodel": coreai, ".mlpackage": coreml}.get(Path(model).suffix)
        lost = backend.unsupported_features(model) if backend is not None else []
        if lost:
            raise PassctlError(
                f"{model} cannot be converted again from its graph, which does not represent "
                f"{', '.join(lost)}; accepted: *{SUFFIX}, for inspection only; "
                "quantize_weights, palettize_weights and sparsify_weights of "
                "graphpress.coreai_utils and graphpress.coreml_utils compress such a program as it is"
            )

    def save(self, graph: Graph) -> None:

        destination(_ARTIFACTS[self.output.suffix], self.target).convert(graph, self.output, None)
