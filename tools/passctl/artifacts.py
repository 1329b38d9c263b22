"""Saved models: where commands save them, and how they are held against the models they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import click
from attrs import frozen
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.comparison import CheckReport
from graphpress.backends.coreml import Target
from graphpress.backends.verification import WeightCheck, compare_weights, compressing_ops, constant_bytes, reference
from graphpress.ir.files import check_writable
from graphpress.ir.graph import Graph
from graphpress.ir.text.storage import SUFFIX, save_graph
from graphpress.tools.passctl.console import ModelArgumentError, PassctlError
from graphpress.tools.passctl.models import Subject

_SLACK_BYTES, _SLACK_SHARE = 2048, 0.02
"""What an artifact's constants may take beyond the model's: shapes and padding that a converter writes as constants."""


@frozen
class ArtifactVerdict:
    """What was compared.

    Attributes:
        outputs: those of the artifact beside the model's.
        weights: for each weight of the model, whether it is in the artifact.
        operations: how many operators of each name the artifact has.
        compressing: those that unpack or quantize, as the artifact has them and as the model has them.
        weight_bytes: bytes of the constants: of the artifact, and of the model when packed.
        file_bytes: bytes of the file that holds the weights, and the most that its constants account for.
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
        """What differs, a line each."""
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
        """True when nothing differs."""
        return not self.problems

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Rows of a table: what, in the artifact, in the model, a remark."""
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
        """The same as plain data."""
        return {
            "ok": self.ok,
            "problems": self.problems,
            "outputs": [
                {
                    "name": each.name,
                    "shape": list(each.shape),
                    "max_error": each.max_error,
                    "max_error_in_runtime_arithmetic": each.max_error_in_runtime_arithmetic,
                    "ok": each.within(self.outputs.tolerance),
                }
                for each in self.outputs.outputs
            ],
            "weights": [{"name": each.name, "shape": list(each.shape), "same": each.same} for each in self.weights],
            "operations": dict(self.operations),
            "compressing": {"artifact": dict(self.compressing[0]), "model": dict(self.compressing[1])},
            "weight_bytes": {"artifact": self.weight_bytes[0], "model": self.weight_bytes[1]},
            "file_bytes": {"artifact": self.file_bytes[0], "accounted_for": self.file_bytes[1]},
            "stored_bytes": self.stored_bytes,
        }


def verify(path: Path, subject: Subject, tolerance: float) -> ArtifactVerdict:
    """Compare the artifact at `path` with the model it was made from.

    Raises:
        ModelArgumentError: when `path` names no artifact.
        AssetError: when the artifact is missing or damaged.
    """
    if path.suffix not in (".aimodel", ".mlpackage"):
        raise ModelArgumentError(f"{str(path)!r} names no artifact; accepted: an .aimodel or an .mlpackage")
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


Parts = tuple[Graph, Mapping[str, int], int, tuple[int, int], int]


def _asset(path: Path) -> Parts:
    info = coreai.read(path)
    # Each operator and constant is written with its types and its place in the model.
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
    """What was saved."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of all files."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the constants."""


class Destination(Protocol):
    """A runtime's files."""

    @property
    def suffix(self) -> str:
        """How their names end."""

    def convert(self, model: nn.Module | Graph, path: Path, example_inputs: tuple[Any, ...] | None) -> Saved:
        """Save a finalized model, or a graph, which needs no inputs."""

    def check(self, path: Path, model: nn.Module, example_inputs: tuple[Any, ...]) -> CheckReport:
        """Compare what was saved with the model."""


@frozen
class CoreaiAsset:
    """An `.aimodel`, executed by the runtime."""

    suffix: str = ".aimodel"

    def convert(self, model: nn.Module | Graph, path: Path, example_inputs: tuple[Any, ...] | None) -> Saved:
        """See `graphpress.backends.coreai.convert`."""
        return coreai.convert(model, path, example_inputs)

    def check(self, path: Path, model: nn.Module, example_inputs: tuple[Any, ...]) -> CheckReport:
        """See `graphpress.backends.coreai.check`."""
        return coreai.check(path, model, example_inputs)


@frozen
class CoremlPackage:
    """An `.mlpackage`, whose program is read back and evaluated."""

    target: Target
    suffix: str = ".mlpackage"

    def convert(self, model: nn.Module | Graph, path: Path, example_inputs: tuple[Any, ...] | None) -> Saved:
        """See `graphpress.backends.coreml.convert`."""
        return coreml.convert(model, path, example_inputs, target=self.target)

    def check(self, path: Path, model: nn.Module, example_inputs: tuple[Any, ...]) -> CheckReport:
        """See `graphpress.backends.coreml.check`."""
        return coreml.check(path, model, example_inputs)


def destination(backend: str, target: str | None) -> Destination:
    """What the options ask for.

    Raises:
        click.UsageError: for a target of a backend that has none.
        TargetError: for one that Core ML does not have.
    """
    if backend == "coreml":
        return CoremlPackage(Target.of(target or Target.iOS18))
    if target is not None:
        raise click.UsageError("--target is for --backend coreml")
    return CoreaiAsset()


_ARTIFACTS = {".aimodel": "coreai", ".mlpackage": "coreml"}


class GraphDestination(Protocol):
    """Where a graph goes."""

    def check(self, model: str) -> None:
        """Raise, before any work, where the graph of `model` cannot be saved."""

    def save(self, graph: Graph) -> None:
        """Write it, whole or not at all."""


def destination_of(output: Path, target: str | None) -> GraphDestination:
    """What `output` means, by how it ends.

    Raises:
        click.UsageError: for an ending that nothing has, and a target of what has none.
        TargetError: for a target that Core ML does not have.
    """
    if output.suffix in _ARTIFACTS:
        return _Artifact(output, target)
    if output.suffix != SUFFIX:
        accepted = ", ".join(f"*{suffix}" for suffix in (SUFFIX, *_ARTIFACTS))
        raise click.UsageError(f"{str(output)!r} ends in nothing that is saved; accepted: {accepted}")
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
        """See the protocol. What an artifact has and a graph has not would be gone from the one that is written."""
        from graphpress.backends import coreai, coreml, saving

        saving.check_target(self.output, self.output.suffix)
        backend = {".aimodel": coreai, ".mlpackage": coreml}.get(Path(model).suffix)
        lost = backend.losses(model) if backend is not None else []
        if lost:
            raise PassctlError(
                f"{model} cannot be written again from its graph, which lacks {', '.join(lost)}; accepted: a graph to "
                f"look at, *{SUFFIX}; quantize_weights, palettize_weights and sparsify_weights of "
                "graphpress.coreai_utils and graphpress.coreml_utils compress such a program as it is"
            )

    def save(self, graph: Graph) -> None:

        destination(_ARTIFACTS[self.output.suffix], self.target).convert(graph, self.output, None)
