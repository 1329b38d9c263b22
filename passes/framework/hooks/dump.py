"""The hook that writes the graph after every step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from attrs import define, field

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph
from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.steps import Step


@define(eq=False)
class Dump(Hook):
    """Write the text form of the graph to numbered files: ``000-start.txt``, then ``001-dce-1.txt`` and so on.

    Numbers count the steps that ran, so they stay the same when files are left out. A step that fails leaves
    ``...-failed.txt``, with the error on top.

    Attributes:
        folder: where to; made when it is not there.
        only_changed: leave out steps that changed nothing.
        filter: which steps: a predicate, or patterns such as ``fold-*`` or ``dce#2`` of which one must fit.
    """

    folder: Path = field(converter=Path)
    only_changed: bool = False
    filter: Callable[[Step], bool] | Sequence[str] = field(default=("*",), kw_only=True)
    files: list[Path] = field(factory=list, init=False)
    _number: int = field(default=0, init=False)

    def before(self, step: Step, graph: Graph) -> None:
        """Write what the first step starts from."""
        if self._number == 0:
            self._write("start", graph)
        self._number += 1

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Write the result."""
        if self._wants(step) and (record.edits or not self.only_changed):
            self._write(step.label, graph)

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Write what the failing step left."""
        self._write(f"{step.label}-failed", graph, f"// {type(error).__name__}: {error}".replace("\n", "\n// "))

    def _wants(self, step: Step) -> bool:
        if callable(self.filter):
            return self.filter(step)
        patterns = [self.filter] if isinstance(self.filter, str) else self.filter
        return any(fnmatchcase(step.address, p) or fnmatchcase(step.pass_.name, p) for p in patterns)

    def _write(self, title: str, graph: Graph, heading: str = "") -> None:
        from graphpress.ir.printer import print_graph

        try:
            text = print_graph(graph)
        except GraphpressError as error:  # a failed pass may leave what cannot be printed
            text = f"// the graph has no text form: {error}\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self._number:03d}-{re.sub(r'[^A-Za-z0-9.-]+', '-', title)}.txt"
        path.write_text(f"{heading}\n{text}" if heading else text, encoding="utf-8")
        self.files.append(path)
