"""`passctl compress`: compress a model by a YAML config and save it for a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphpress.tools.passctl import console
from graphpress.tools.passctl.arguments import command, input_options, model_argument

if TYPE_CHECKING:
    from graphpress.tools.passctl.artifacts import Destination
    from graphpress.tools.passctl.compression import CompressionReport
    from graphpress.tools.passctl.console import Stages


@command(
    "compress",
    "passctl compress graphpress.tools.models:small_resnet --config joint.yaml \\",
    "    --calibration batches.npz -o small_resnet.aimodel",
    "",
    "  joint.yaml:",
    "    kmeans_palettization_config:",
    "      global_config:",
    "        op_state_spec: {weight: {n_bits: 4, lut_qspec: {dtype: int8}}}",
    "    quantization_config:",
    "      global_config: {op_state_spec: null}",
    "",
    "  sparse.yaml: half of each weight zeros, the others in lookup tables of 16 entries",
    "    pruning_config:",
    "      global_config: {op_state_spec: {weight: {target_sparsity: 0.5}}}",
    "    kmeans_palettization_config:",
    "      global_config: {op_state_spec: {weight: {n_bits: 4}}}",
)
@model_argument()
@click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path),
    help="YAML file with the compression configs.",
)
@click.option(
    "--backend", type=click.Choice(["coreai", "coreml"]), default="coreai", show_default=True, help="The runtime."
)
@click.option("--target", help="For Core ML, the oldest system that the package supports.  [default: iOS18]")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The file to save, such as out.aimodel or out.mlpackage.",
)
@click.option(
    "--calibration",
    "calibration_path",
    type=click.Path(path_type=Path),
    help="Data for quantizers and activation-aware tables: a file of arrays named as the model's inputs, or a folder "
    "of such files.",
)
@input_options
@click.pass_context
def compress(
    ctx: click.Context,
    model: str,
    config_file: Path,
    backend: str,
    target: str | None,
    output: Path,
    calibration_path: Path | None,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compress MODEL and save it for a runtime.

    The YAML config has a `pruning_config`, a `kmeans_palettization_config`, a `quantization_config`, or several:
    weights are pruned first, the kept elements are palettized, and quantizers are placed on the result. The saved asset
    is executed (a Core ML package is imported and evaluated) and compared with the finalized module; a mismatch has
    exit code 1. An existing output is kept until the new one is complete.
    """
    from graphpress.backends import saving
    from graphpress.tools.passctl.artifacts import destination
    from graphpress.tools.passctl.console import Stages

    saved_as = destination(backend, target)
    with saving.replacing(output, saved_as.suffix) as built, Stages() as stages:
        report = _compress(built, model, config_file, saved_as, calibration_path, inputs_file, input_shapes, stages)
    if as_json:
        console.print_json({"output": str(output), **report.data(), "warnings": console.warnings_shown()})
    else:
        console.report_table(f"{model} in {output}", (), report.rows())
    if not report.check.ok:
        console.report(str(report.check).replace(str(built), str(output)))
        ctx.exit(1)


def _compress(
    built: Path,
    model: str,
    config_file: Path,
    saved_as: Destination,
    calibration_path: Path | None,
    inputs_file: Path | None,
    input_shapes: tuple[str, ...],
    stages: Stages,
) -> CompressionReport:
    from graphpress.export_backend import ExportBackend
    from graphpress.tools.passctl.compression import CompressionReport, Recipe, float_bytes, relative_error, run_recipe
    from graphpress.tools.passctl.inputs import CalibrationData
    from graphpress.tools.passctl.models import resolve

    recipe = Recipe.read(config_file)
    with stages.stage("load"):
        subject = resolve(model, inputs_file, input_shapes)
        example = subject.example_inputs
        batches = (
            () if calibration_path is None else CalibrationData.open(calibration_path, subject.input_names, example)
        )
    module = subject.module()
    compressed = run_recipe(subject, example, recipe, ExportBackend.CoreAI, batches, stages)
    finalized = compressed.model
    with stages.stage("convert"):
        info = saved_as.convert(finalized, built, example, subject.dynamic_shapes())
    with stages.stage("check"):
        check = saved_as.check(built, finalized, example)
        drift = relative_error(module, finalized, example)
    return CompressionReport(
        info.stored_bytes, info.weight_bytes, float_bytes(module), check, drift, stages.seconds, compressed.skipped
    )
