"""Reproducers: folders with everything needed to replay a failure, and the hook that writes them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from traceback import format_exception
from typing import Any

import torch
from attrs import define, field, frozen
from safetensors import SafetensorError
from safetensors.torch import load_file

from graphpress.ir.dtypes import DType
from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import FileError, replacing_folder
from graphpress.ir.folders import FolderError, check_contents, read_whole
from graphpress.ir.graph import Graph
from graphpress.ir.plain import from_plain, parse_json, to_plain
from graphpress.ir.tensors import fresh_tensor_digest, from_archive, write_archive
from graphpress.ir.text.storage import load_graph, save_graph
from graphpress.passes.framework.debugging.reproduction import Case, Failure
from graphpress.passes.framework.errors import BundleError, OptionError
from graphpress.passes.framework.facts import Fact
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.standard_hooks import Hook
from graphpress.passes.framework.steps import Step

_FORMAT = 1
_PACKAGES = ("graphpress", "torch", "numpy", "attrs")


@frozen(eq=False)
class Bundle:
    """A failure with everything needed to replay it.

    Attributes:
        graph: the graph before the pipeline.
        pipeline_text: the text form of the pipeline.
        failure: the failure.
        assume: names of the facts that held for the graph.
        inputs: flat inputs of the graph, or None.
        seed: the seed of random ops.
        modules: the modules of the pass classes.
        earlier: labels of the earlier steps of the failed run.
        report: the error with its traceback.
        versions: of Python, the platform and packages at the time of the failure.
    """

    graph: Graph
    pipeline_text: str
    failure: Failure
    assume: tuple[str, ...] = ()
    inputs: Sequence[Any] | None = None
    seed: int = 0
    modules: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    report: str = ""
    versions: Mapping[str, str] = field(factory=lambda: installed_versions())

    @classmethod
    def of(cls, case: Case, failure: Failure, **more: Any) -> Bundle:
        """Create the bundle of a failing case; `more` are further attributes."""
        return cls(
            case.graph,
            _text(case.pipeline),
            failure,
            tuple(sorted(fact.name for fact in case.pipeline.assume)),
            case.inputs,
            case.seed,
            tuple(dict.fromkeys(type(step.pass_).__module__ for step in case.pipeline)),
            **more,
        )

    def case(self) -> Case:
        """Return the case to run.

        Raises:
            BundleError: if the pipeline has an unknown pass or incomplete options.
        """
        try:
            pipeline = Pipeline.parse(self.pipeline_text, assume=[Fact(name) for name in self.assume])
        except GraphpressError as error:
            raise BundleError(
                "the pipeline of the reproducer cannot be built; its passes come from "
                f"{', '.join(self.modules)}, which may have to be imported first: {error}"
            ) from error
        return Case(self.graph, pipeline, self.inputs, self.seed, self.failure.takes_inputs)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the bundle to `folder` atomically, replacing an older bundle.

        Raises:
            BundleError: if `folder` is not a bundle, or cannot be written.
        """
        target = Path(os.path.abspath(folder))
        if target.exists() and not _is_bundle(target) and not (target.is_dir() and not any(target.iterdir())):
            raise BundleError(f"{target} exists and is not a reproducer; it is not replaced")
        try:
            with replacing_folder(target) as built:
                built.mkdir()
                self._fill(built)
        except OSError as error:
            raise BundleError(f"cannot write a reproducer to {target}: {FileError.of(target, error).reason}") from error

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Load the bundle in `folder`.

        Raises:
            BundleError: if there is none, or it is damaged.
            StorageError: if its graph is damaged.
        """
        place = Path(folder)
        return read_whole(place, lambda: cls._load(place))

    @classmethod
    def _load(cls, folder: Path) -> Bundle:
        if not _is_bundle(folder):
            raise BundleError(f"{folder} is not a reproducer: it has no bundle.json")
        try:
            check_contents(folder)
            data = parse_json((folder / "bundle.json").read_bytes())
            if data["format"] != _FORMAT:
                raise BundleError(f"{folder} has the format {data['format']!r}; this version reads {_FORMAT}")
            contents = from_plain(data, _Contents)
            return cls(
                load_graph(folder / "graph.gir"),
                (folder / "pipeline.txt").read_text(encoding="utf-8").strip(),
                contents.failure,
                contents.assume,
                _read_inputs(folder, contents.inputs),
                contents.seed,
                contents.modules,
                contents.earlier,
                (folder / "error.txt").read_text(encoding="utf-8"),
                contents.versions,
            )
        except FolderError as error:
            raise BundleError(str(error)) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise BundleError(f"the reproducer in {folder} is damaged: {type(error).__name__}: {error}") from error

    def _fill(self, folder: Path) -> None:
        save_graph(self.graph, folder / "graph.gir")
        (folder / "pipeline.txt").write_text(f"{self.pipeline_text}\n", encoding="utf-8")
        contents = _Contents(
            _FORMAT,
            self.failure,
            self.assume,
            _write_inputs(folder, self.inputs),
            self.seed,
            self.modules,
            self.earlier,
            self.versions,
        )
        (folder / "error.txt").write_text(self.report or self.failure.message, encoding="utf-8")
        (folder / "bundle.json").write_text(json.dumps(to_plain(contents), indent=2) + "\n", encoding="utf-8")


@frozen
class _TensorInput:
    """An input whose data is in the archive, under its index."""

    tensor: DType
    sha256: str | None = None


@frozen
class _ValueInput:
    value: bool | int | float | str | None


@frozen
class _Contents:
    """The contents of ``bundle.json``; the rest of a bundle is in separate files."""

    format: int
    failure: Failure
    assume: tuple[str, ...]
    inputs: tuple[_TensorInput | _ValueInput, ...] | None
    seed: int
    modules: tuple[str, ...]
    earlier: tuple[str, ...]
    versions: Mapping[str, str]


def _text(pipeline: Pipeline) -> str:
    try:
        return str(pipeline)
    except OptionError as error:
        return f"// {error}"  # the reason instead of a pipeline; the graph is worth keeping


def _is_bundle(folder: Path) -> bool:
    return (folder / "bundle.json").is_file()


def _write_inputs(folder: Path, inputs: Sequence[Any] | None) -> tuple[_TensorInput | _ValueInput, ...] | None:
    """Write tensors to a file, and return their references with the other inputs."""
    if inputs is None:
        return None
    tensors = {str(place): given for place, given in enumerate(inputs) if isinstance(given, torch.Tensor)}
    if tensors:
        write_archive(folder / "inputs.safetensors", tensors)
    return tuple(
        _TensorInput(DType.of(given.dtype), fresh_tensor_digest(given))
        if isinstance(given, torch.Tensor)
        else _ValueInput(given)
        for given in inputs
    )


def _read_inputs(folder: Path, entries: tuple[_TensorInput | _ValueInput, ...] | None) -> list[Any] | None:
    if entries is None:
        return None
    tensors = load_file(folder / "inputs.safetensors") if any(isinstance(e, _TensorInput) for e in entries) else {}
    return [
        _checked(from_archive(tensors[str(place)], entry.tensor), entry, place)
        if isinstance(entry, _TensorInput)
        else entry.value
        for place, entry in enumerate(entries)
    ]


def _checked(tensor: torch.Tensor, entry: _TensorInput, place: int) -> torch.Tensor:
    if entry.sha256 not in (None, fresh_tensor_digest(tensor)):
        raise ValueError(f"input {place} in inputs.safetensors differs from the saved one")
    return tensor


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, the platform and the packages that a failure may depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


@define(eq=False)
class ReproducerOnFailure(Hook):
    """Hook that writes a reproducer when a step fails: the graph before it, its pass, inputs, versions, and the error.

    ``passctl repro FOLDER`` replays it, ``passctl reduce FOLDER`` reduces it. Place it before hooks whose errors it
    should record, such as `Numerics`. The graph is copied before every step; its tensors are shared.

    Attributes:
        folder: the target folder; an existing reproducer is replaced.
        inputs: flat inputs of the graph, needed to replay `Numerics` failures.
        seed: the seed of random ops, as in `Numerics`.
        is_written: True once a reproducer has been written.
    """

    folder: str | os.PathLike[str]
    inputs: Sequence[Any] | None = None
    seed: int = 0
    is_written: bool = field(default=False, init=False)
    _before: Graph | None = field(default=None, init=False)
    _earlier: list[str] = field(factory=list, init=False)

    def before(self, step: Step, graph: Graph) -> None:
        """Copy the graph, unless nothing changed since the last copy."""
        if self._before is None:
            self._before = graph.clone()

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Drop an outdated copy."""
        self._earlier.append(step.label)
        if record.edits or step.index == step.total - 1:
            self._before = None

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Write the reproducer, and add a note to `error` on how to replay it.

        Raises:
            BundleError: if the reproducer cannot be written.
        """
        if not isinstance(error, Exception) or self._before is None:
            return
        # Imported late: bundles need the runner, which needs hooks.
        from graphpress.passes.framework.debugging.reproduction import Case, Failure
        from graphpress.passes.framework.pipeline import Pipeline

        case = Case(self._before, Pipeline(step.pass_, assume=step.pass_.needs), self.inputs, self.seed)
        failure = Failure.of(error, step)
        if failure.takes_inputs and self.inputs is None:
            raise BundleError(
                f"a {failure.error} can only be replayed with inputs: pass ReproducerOnFailure the inputs of Numerics"
            )
        report = "".join(format_exception(error))
        Bundle.of(case, failure, earlier=tuple(self._earlier), report=report).save(self.folder)
        self.is_written = True
        error.add_note(f"reproducer written; replay it with: passctl repro {os.fspath(self.folder)}")
