"""Where `passctl run` saves what a pipeline made: a graph of ours, or a file of a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import click
from attrs import frozen

from graphpress.ir.graph import Graph
from graphpress.ir.storage import SUFFIX, save_graph
from graphpress.tools.passctl.errors import PassctlError
from graphpress.tools.passctl.writing import check_writable

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
        from graphpress.tools.passctl.destinations import destination

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
        from graphpress.tools.passctl.destinations import destination

        destination(_ARTIFACTS[self.output.suffix], self.target).convert(graph, self.output, None)
