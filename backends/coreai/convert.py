"""Conversion of a model to a saved Core AI asset."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from os import PathLike
from typing import Any

import attrs
import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends import exporting, saving
from graphpress.backends.coreai import ops, packing, program
from graphpress.backends.coreai.asset import AssetInfo, read
from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.coreai.reproducible import save_asset
from graphpress.backends.errors import AssetError, ConversionError
from graphpress.ir.files import FileError, check_space
from graphpress.ir.graph import Graph
from graphpress.ir.torch.model_checks import check_finalized


class CoreaiBackend:
    """The backend for Apple's Core AI runtime, with `.aimodel` assets."""

    name = "coreai"

    def lowering(self) -> tuple[LowerToCoreai, ...]:
        """Return the pass that lowers `quant` ops to the equivalent `coreai` ops."""
        return (LowerToCoreai(),)

    def convert(self, model: Any, path: str | PathLike[str], example_inputs: Any = None) -> AssetInfo:
        """Convert and save a model; see `graphpress.backends.coreai.convert`."""
        return convert(model, path, example_inputs)


def convert(
    model_or_exported_program: torch.nn.Module | ExportedProgram | Graph,
    path: str | PathLike[str],
    example_inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    created: datetime | None = None,
) -> AssetInfo:
    """Export, convert and save a model as a Core AI asset, and return its description.

    Compressed constants (`torch.ops.coreai.*`) are stored packed: lookup tables with 1, 2, 3, 4, 6 and 8 bits, integers
    with 2, 4 and 8. The arguments are not changed.

    Args:
        model_or_exported_program: a module, exported in eval mode, a program from `torch.export`, or a graph of the IR.
        path: the target, a directory ending in `.aimodel`. An existing asset is replaced atomically once the new one is
            complete.
        example_inputs: needed for a module: one tensor, a tuple of the arguments, or a dict by name.
        dynamic_shapes: as for `torch.export.export`, for a module.
        created: the date stored in the asset; by default none is, so that equal models give equal files.

    States, buffers that the model writes to, are zero at the first call of the asset; other initial values cause an
    `InitialStateWarning`.

    Returns:
        The description of the saved asset; `AssetInfo.seconds` has the duration of each stage.

    Raises:
        MissingDependencyError: if the converter is not installed.
        AssetError: if `path` cannot be written; raised before the conversion.
        ModelError: for a prepared model that is not finalized, TorchScript, and a model without data.
        ConversionError: if torch cannot export the model or the converter rejects it.
        FactError, LoweringError: for a graph with fake-quantizers, or compressed values that Core AI cannot store.
    """
    ops.register()
    target = saving.path_of(path)
    check_finalized(model_or_exported_program)
    clock = _Clock()
    with saving.replacing(target) as built:
        with clock.timing("export"):
            exported = program.exported(model_or_exported_program, example_inputs, dynamic_shapes)
        with clock.timing("decompose"):
            decomposed = program.decompose(program.prepared(exported))
        exporting.warn_of_initial_states(exporting.states_of(decomposed))
        with clock.timing("make_packable"):
            settled = packing.make_packable(decomposed)
        with clock.timing("convert"):
            converted = _converted(settled)
        with clock.timing("save"):
            try:
                check_space(built, _SLACK_BYTES + constant_bytes(settled))
                save_asset(converted, built, created)
            except OSError as error:
                raise AssetError(f"cannot save the asset for {target}: {FileError.of(built, error).reason}") from error
            except RuntimeError as error:
                raise AssetError(f"cannot save the asset for {target}: {error}") from error
        with clock.timing("read back"):
            info = read(built)
    return attrs.evolve(info, path=target, seconds=clock.seconds)


_SLACK_BYTES = 2**20  # of operators and metadata


def constant_bytes(exported: ExportedProgram) -> int:
    """Return an upper bound of the bytes that the constants of a program take in an asset."""
    tensors = [*exported.state_dict.values(), *exported.constants.values()]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def _converted(settled: ExportedProgram) -> Any:
    """Run the stock converter; errors name the node being converted."""
    converter = ops.require("coreai_torch").TorchConverter()
    at: list[fx.Node] = []
    convert_node = converter._get_operation

    def noting(node: fx.Node) -> Any:
        at[:] = [node]
        return convert_node(node)

    converter._get_operation = noting
    try:
        with _silenced():
            return converter.add_exported_program(settled).to_coreai()
    except Exception as error:
        where = f" at {at[0].target} {exporting.place(at[0])}" if at else ""
        raise ConversionError(f"the Core AI converter failed{where}: {type(error).__name__}: {error}") from error


@contextmanager
def _silenced() -> Iterator[None]:
    """Silence the converter's banner on stdout, and its warning about the width of float8."""
    logger = logging.getLogger("coreai_torch._compression.utils")
    disabled, logger.disabled = logger.disabled, True
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.disabled = disabled


class _Clock:
    """Measures wall seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - start
