"""Conversion of a model to a saved Core ML package, with compressed values stored as codes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from typing import Any

import attrs
import torch
from torch.export import ExportedProgram

from graphpress.backends import exporting, saving
from graphpress.backends.coreai import ops as coreai_ops
from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.coreai.program import exported
from graphpress.backends.coreml import translations
from graphpress.backends.coreml.decompositions import decompose
from graphpress.backends.coreml.dependency import quiet, require
from graphpress.backends.coreml.legality import Target, require_legal
from graphpress.backends.coreml.package import PackageInfo, add_digests, read
from graphpress.backends.coreml.widening import widened, with_wide_inputs
from graphpress.backends.errors import AssetError, ConversionError, MissingDependencyError
from graphpress.backends.norms import with_folded_norms
from graphpress.ir.files import FileError
from graphpress.ir.graph import Graph
from graphpress.ir.torch.capture import from_exported_program
from graphpress.ir.torch.model_checks import check_finalized


class CoremlBackend:
    """The backend for Apple's Core ML, with `.mlpackage`s made from the program for Core AI."""

    name = "coreml"

    def lowering(self) -> tuple[LowerToCoreai, ...]:
        """Return the pass that lowers `quant` ops to the equivalent `coreai` ops, which `convert` translates."""
        return (LowerToCoreai(),)

    def convert(self, model: Any, path: str | PathLike[str], example_inputs: Any = None) -> PackageInfo:
        """Convert and save a model for iOS18; see `graphpress.backends.coreml.convert`."""
        return convert(model, path, example_inputs)


SUFFIX = ".mlpackage"


def convert(
    model_or_program: torch.nn.Module | ExportedProgram | Graph,
    path: str | PathLike[str],
    example_inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    target: Target | str = Target.iOS18,
) -> PackageInfo:
    """Export, convert and save a model as a Core ML package, and return its description.

    Converts the program for Core AI: a model finalized with ``ExportBackend.CoreAI``, or any other. Its `coreai` ops
    become Core ML's compressed constants with the same codes. The precision of the model is kept; use
    `graphpress.casting` to convert it to 16 bits first. bfloat16, which Core ML lacks, becomes float32 with the same
    values, and a `UserWarning` tells so. Inputs of int8 and uint8, which it lacks too, become int32.

    Args:
        model_or_program: a module, exported in eval mode, a program from `torch.export`, or a graph of the IR. It is
            not changed.
        path: the target, a directory ending in `.mlpackage`. An existing package is replaced atomically once the new
            one is complete.
        example_inputs: needed for a module: one tensor, a tuple of the arguments, or a dict by name.
        dynamic_shapes: as for `torch.export.export`, for a module.
        target: the oldest system that the package supports.

    Raises:
        MissingDependencyError: if coremltools is not installed.
        TargetError: if `target` is unknown.
        LoweringError: if the target cannot store the compressed values; raised before the conversion.
        FactError: for a graph with fake-quantizers.
        AssetError: if `path` cannot be written.
        ModelError: for a prepared model that is not finalized, TorchScript, and a model without data.
        ConversionError: if torch cannot export the model or coremltools rejects it.
    """
    wanted, package = Target.of(target), saving.path_of(path)
    check_finalized(model_or_program)
    require()
    with suppress(MissingDependencyError):  # without the ops' package, no program uses them
        coreai_ops.register()
    translations.register()
    clock: dict[str, float] = {}
    start = time.perf_counter()
    with saving.replacing(package, SUFFIX) as built:
        program = with_wide_inputs(widened(exported(model_or_program, example_inputs, dynamic_shapes)))
        if wanted >= Target.iOS18:  # the first to have a scale beside a table
            program = with_folded_norms(program)
        start = _lap(clock, "export", start)
        graph = from_exported_program(program)
        require_legal(graph, wanted)
        targets = (output.target for output in graph.outputs if output.kind == "buffer_mutation")
        states = (target.constant for target in targets if target is not None)
        exporting.warn_of_initial_states({state.name: state.tensor for state in states if state is not None})
        start = _lap(clock, "check", start)
        model = converted(program, wanted)
        start = _lap(clock, "convert", start)
        try:
            model.save(str(built))
            add_digests(built, model.get_spec())
        except Exception as error:
            raise AssetError(f"cannot save the package for {path}: {_reason(error)}") from error
        start = _lap(clock, "save", start)
        info = read(built)
        _lap(clock, "read back", start)
    return attrs.evolve(info, path=package, seconds=clock)


def _reason(error: Exception) -> object:
    """The reason of a failed save; that of the first file that was not copied."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return error.args[0][0][-1]
    return FileError.of("", error).reason if isinstance(error, OSError) else error


def converted(program: ExportedProgram, target: Target) -> Any:
    """Convert a program to a coremltools model, without saving it.

    Raises:
        ConversionError: if coremltools rejects it.
    """
    coremltools = require()
    with quiet():
        decomposed = decompose(program)

    def attempt(pipeline: Any) -> Any:
        with quiet(), exporting.quiet():
            return coremltools.convert(
                decomposed,
                minimum_deployment_target=getattr(coremltools.target, target.name),
                compute_precision=coremltools.precision.FLOAT32,
                convert_to="mlprogram",
                skip_model_load=True,
                pass_pipeline=pipeline,
            )

    try:
        return attempt(_pipeline(coremltools))
    except ConversionError:
        raise
    except Exception as error:
        for failing in _FAILING_PASSES:
            pipeline = _pipeline(coremltools)
            with suppress(Exception):
                pipeline.remove_passes({failing})
                return attempt(pipeline)
        raise ConversionError(
            f"coremltools cannot convert the program: {type(error).__name__}: {exporting.head(error)}"
        ) from error


_FAILING_PASSES = ("common::reduce_transposes", "common::fuse_conv_bias")
"""Passes of coremltools that only save ops, and fail for some compressed programs.

The first moves the transpose of one operand of a matrix product across quantize and dequantize, and not the other's.
The second looks for the numbers of a compressed weight where a transpose is between a convolution and an addition.
"""


_CARELESS_PASSES = {
    "common::distributive_quantized_binary_op_scale_normalization",
    "common::int_op_canonicalization",
    "common::dequantize_quantize_pair_elimination",
}
"""Passes of coremltools that change the values of quantized activations.

The first divides the scales around a sum by one of them; the quotients are rounded, and ties get other codes. The
second replaces ``dequantize, reshape, quantize`` by a reshape of the codes, whatever the scales; the third drops
``dequantize, quantize``, whatever the types.
"""


def _pipeline(coremltools: Any) -> Any:
    """Return coremltools' default pipeline without the unsafe passes."""
    pipeline = coremltools.PassPipeline()
    pipeline.remove_passes(_CARELESS_PASSES)
    return pipeline


def _lap(clock: dict[str, float], part: str, start: float) -> float:
    now = time.perf_counter()
    clock[part] = now - start
    return now
