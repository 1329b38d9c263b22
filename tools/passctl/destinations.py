"""Where `passctl compress` saves a model: what each runtime's files are called, how they are written and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import click
from attrs import frozen
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.comparison import CheckReport
from graphpress.backends.coreml import Target
from graphpress.ir.graph import Graph


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
