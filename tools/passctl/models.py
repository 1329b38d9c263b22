"""The MODEL argument: an import path, an example model, or a file, loaded as a graph and a module."""

from __future__ import annotations

import inspect
import io
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from attrs import define, field

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import InterpreterError
from graphpress.ir.text.storage import SUFFIX, load_graph
from graphpress.ir.torch import to_graph_module
from graphpress.ir.torch.archives import check_archive, check_keys
from graphpress.ir.torch.capture import from_exported_program, from_module
from graphpress.ir.torch.program_writer import dynamic_shapes_of
from graphpress.ir.verifier import verify
from graphpress.tools.models import MODELS
from graphpress.tools.passctl.arguments import is_trusted
from graphpress.tools.passctl.callables import ImportedModel, import_model
from graphpress.tools.passctl.console import InputDataError, ModelArgumentError
from graphpress.tools.passctl.inputs import ExampleInputs, inputs_for, read_inputs


class Subject(ABC):
    """A model named on the command line.

    Attributes:
        name: the MODEL argument.
    """

    name: str

    @abstractmethod
    def graph(self) -> Graph:
        """Return a new graph of the model."""

    @abstractmethod
    def module(self) -> torch.nn.Module:
        """Return the model as a module."""

    def model(self) -> torch.nn.Module | torch.export.ExportedProgram:
        """Return the model as compressors take it: an exported program itself, anything else as a module."""
        return self.module()

    def dynamic_shapes(self) -> Any:
        """Return the dynamic shapes of an exported program, as `torch.export.export` takes them, or None."""
        return None

    @property
    @abstractmethod
    def input_names(self) -> list[str]:
        """Return the names of the positional inputs."""

    @property
    @abstractmethod
    def example_inputs(self) -> tuple[Any, ...]:
        """Return the positional inputs to capture, calibrate and compare the model with.

        Raises:
            InputDataError: if there are none.
        """

    def flat_inputs(self) -> list[Any]:
        """Return the leaves of the example inputs, for the interpreter."""
        return list(pytree.tree_leaves(self.example_inputs))


def resolve(name: str, inputs_file: Path | None = None, input_shapes: Sequence[str] = ()) -> Subject:
    """Return the model called `name`, with example inputs from the options or the model itself.

    Raises:
        ModelArgumentError: if `name` is unknown, with similar names.
        InputDataError: if the inputs cannot be read or do not fit.
        GraphpressError: if a file cannot be loaded.
    """
    given = read_inputs(inputs_file, input_shapes)
    where = str(inputs_file) if inputs_file else "--input-shape"
    suffix = Path(name).suffix
    if suffix == SUFFIX:
        return _GraphSubject(name, load_graph(name), given, where)
    if suffix == ".pt2":
        return _ProgramSubject(name, _load_program(Path(name)), given, where)
    if suffix == ".mlpackage":
        from graphpress.backends.coreml import from_package

        return _GraphSubject(name, from_package(name), given, where)
    if suffix == ".aimodel":
        from graphpress.backends.coreai import from_asset

        return _GraphSubject(name, from_asset(name), given, where)
    if ":" in name:
        made = import_model(name)
    elif name in MODELS:
        made = ImportedModel(MODELS[name].build(), MODELS[name].example_inputs())
    else:
        raise ModelArgumentError(f"{name!r} is not a model{_hint(name)}")
    if isinstance(made.model, torch.export.ExportedProgram):
        return _ProgramSubject(name, made.model, given, where)
    return _ModuleSubject(name, made.model, made.inputs, given, where)


@define(eq=False)
class _ModuleSubject(Subject):
    name: str
    _module: torch.nn.Module
    _own_inputs: Any
    _given: ExampleInputs | None
    _where: str

    def graph(self) -> Graph:
        return from_module(self._module, self.example_inputs)

    def module(self) -> torch.nn.Module:
        return self._module

    @property
    def input_names(self) -> list[str]:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(self._module.forward).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind in kinds]

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        if self._given is not None:
            return self._given.in_order(self.input_names, self._where)
        if self._own_inputs is None:
            raise InputDataError(
                f"{self.name} has no example inputs: pass --input-shape 1x3x32x32, or --inputs "
                "FILE, or let the callable return (module, example_inputs)"
            )
        if isinstance(self._own_inputs, torch.Tensor):
            return (self._own_inputs,)
        if isinstance(self._own_inputs, list | tuple):
            return tuple(self._own_inputs)
        raise InputDataError(
            f"the example inputs of {self.name} are a {type(self._own_inputs).__name__}; accepted: a tuple of the "
            "positional arguments"
        )


@define(eq=False)
class _ProgramSubject(Subject):
    name: str
    _program: torch.export.ExportedProgram
    _given: ExampleInputs | None
    _where: str

    def graph(self) -> Graph:
        return from_exported_program(self._program)

    def module(self) -> torch.nn.Module:
        return self._program.module()

    def model(self) -> torch.export.ExportedProgram:
        return self._program

    def dynamic_shapes(self) -> Any:
        return dynamic_shapes_of(self.graph())

    @property
    def input_names(self) -> list[str]:
        return list(self._program.graph_signature.user_inputs)

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        if self._given is not None:
            return self._given.in_order(self.input_names, self._where)
        if self._program.example_inputs is None:
            return tuple(inputs_for(self.graph()))
        arguments, named = self._program.example_inputs
        if named:
            raise InputDataError(f"{self.name} takes inputs by name ({', '.join(named)}); accepted: positional inputs")
        return tuple(arguments)


@define(eq=False)
class _GraphSubject(Subject):
    name: str
    _graph: Graph
    _given: ExampleInputs | None
    _where: str
    _inputs: tuple[Any, ...] | None = field(default=None, init=False)

    def graph(self) -> Graph:
        return self._graph.clone()

    def module(self) -> torch.nn.Module:
        verify(self._graph)  # the module runs without the interpreter's checks of operands
        return to_graph_module(self._graph)

    @property
    def input_names(self) -> list[str]:
        return [graph_input.name for graph_input in self._graph.inputs]

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        if self._inputs is None:
            given = self._given
            self._inputs = (
                tuple(inputs_for(self._graph)) if given is None else given.in_order(self.input_names, self._where)
            )
        if len(self._inputs) != len(self._graph.inputs):
            names = ", ".join(self.input_names)
            raise InterpreterError(
                f"{self.name} takes {len(self._graph.inputs)} inputs ({names}), got {len(self._inputs)}"
            )
        return self._inputs


def _load_program(path: Path) -> torch.export.ExportedProgram:
    if not path.is_file():
        raise ModelArgumentError(f"no file {str(path)!r}{_hint(path.name, path.parent)}")
    if is_trusted():
        return _loaded(path, path)
    program = _loaded(path, check_archive(path))
    check_keys(path, program.example_inputs)
    return program


def _loaded(path: Path, source: Path | io.BytesIO) -> torch.export.ExportedProgram:
    try:
        try:
            return _read(source)
        except Exception:
            # The operators of finalized models are registered by a package that is slow to import.
            from graphpress.backends import coreai

            coreai.register()
            return _read(source)
    except GraphpressError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelArgumentError(f"{path} is not a loadable exported program: {reason}") from error


def _read(source: Path | io.BytesIO) -> torch.export.ExportedProgram:
    with _without_logs():
        if isinstance(source, Path):
            return torch.export.load(source)
        source.seek(0)
        with _without_code():
            return torch.export.load(source)


@contextmanager
def _without_code() -> Iterator[None]:
    """Restrict the unpickling in torch.export.load to tensors and plain data."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


@contextmanager
def _without_logs() -> Iterator[None]:
    """Silence torch's log of the traceback that it raises anyway."""
    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _hint(name: str, folder: Path | None = None) -> str:
    folder = Path(name).parent if folder is None else folder
    files = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    near = suggestion(
        Path(name).name, [*MODELS, *(f for f in files if f.endswith((SUFFIX, ".pt2", ".mlpackage", ".aimodel")))]
    )
    return near or (
        f"; accepted: package.module:name, a .pt2, .mlpackage, .aimodel or {SUFFIX} file, or one of the example models "
        + ", ".join(MODELS)
    )
