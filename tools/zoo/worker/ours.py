"""The stages of our side, in the order in which they run."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphpress import ExportBackend
from graphpress.backends import coreai, coreml
from graphpress.backends.coreai.runtime import load
from graphpress.ir.equality import difference
from graphpress.ir.graph import Graph
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.text.printer import print_graph
from graphpress.ir.torch.capture import from_exported_program
from graphpress.ir.verifier import verify
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.palettization.spec import PalettizationSpec
from graphpress.passes.framework import EXACT
from graphpress.passes.framework.numerics import compare, execute
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.tools.zoo.entry import Inputs, ZooModel
from graphpress.tools.zoo.worker.operations import executed_operations
from graphpress.tools.zoo.worker.stage import (
    Fault,
    Skipped,
    StageRun,
    decibels_of,
    decibels_of_sets,
    float_outputs,
    weight_decibels,
)

_INT8 = QuantizationSpec(dtype=torch.int8, qscheme="symmetric")
_ACTIVATIONS = QuantizerConfig(
    global_config=ModuleQuantizerConfig(op_state_spec=None, op_input_spec={"*": _INT8}, op_output_spec={"*": _INT8})
)
_INT8_TABLES = KMeansPalettizerConfig(
    global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=4, lut_qspec=_INT8)})
)
_CALLS = 12
_STATE_TOLERANCE = 0.02
IMPORTS = ("coreai_torch", "coremltools")


@attrs.define(eq=False)
class Subject:
    """An architecture and what its stages made: a stage takes from the ones before it what they have made."""

    model: ZooModel
    calibration_sets: int
    module: nn.Module = attrs.field(init=False)
    program: torch.export.ExportedProgram | None = None
    finalized: dict[str, nn.Module] = attrs.field(factory=dict)
    prepared: nn.Module | None = None

    def __attrs_post_init__(self) -> None:
        self.module = self.model.build()

    def exported(self) -> torch.export.ExportedProgram:
        """Return torch's own export of the float model."""
        if self.program is None:
            with torch.no_grad():
                self.program = torch.export.export(copy.deepcopy(self.module), self.model.example())
        return self.program

    def finalized_as(self, kind: str) -> nn.Module:
        """Return the finalized model of a stage, making it again in a process of its own."""
        if kind not in self.finalized:
            try:
                self.finalized[kind] = _COMPRESSIONS[kind](self)
            except Exception as error:
                raise Skipped(f"{kind} fails: {type(error).__name__}") from None
        return self.finalized[kind]


def export(subject: Subject, run: StageRun) -> None:
    """`torch.export` of the float model."""
    with run.timing("export"):
        program = subject.exported()
    run.figures["nodes"] = len(program.graph.nodes)


def _graph(subject: Subject) -> Graph:
    if subject.program is None:
        try:
            subject.exported()
        except Exception as error:
            raise Skipped(f"export fails: {type(error).__name__}") from None
    assert subject.program is not None
    return from_exported_program(subject.program)


def capture(subject: Subject, run: StageRun) -> None:
    """Import into the IR, verify, and execute as torch does."""
    graph = _graph(subject)
    verify(graph)
    run.figures["ops"] = len(graph.nodes)
    assert subject.program is not None
    flat = pytree.tree_leaves(subject.model.example())
    program = subject.program.module()
    expected = execute(from_exported_program(subject.program), flat)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        leaves = pytree.tree_leaves(program(*pytree.tree_map_only(Tensor, torch.clone, subject.model.example())))
    moved = [each for each in compare(attrs.evolve(expected, outputs=leaves), expected, EXACT) if not each.is_held]
    if moved:
        raise Fault(f"output {moved[0].output} of the graph differs from torch's in {moved[0].error:g} elements")


def text(subject: Subject, run: StageRun) -> None:
    """Print, parse, compare."""
    graph = _graph(subject)
    data = {name: constant.tensor for name, constant in graph.constants.items() if constant.has_data}
    found = difference(graph, parse_graph(print_graph(graph), data))
    if found:
        raise Fault(f"printed and parsed again, {found}")


def prepared(module: nn.Module, example: Inputs) -> tuple[Quantizer, nn.Module]:
    """Return a quantizer with the default config, and its prepared model."""
    quantizer = Quantizer(module, QuantizerConfig())
    return quantizer, quantizer.prepare(example)


def w8a8(subject: Subject, run: StageRun) -> None:
    """The default config: prepare, calibrate, finalize."""
    model = subject.model

    with run.timing("prepare"):
        _, made = prepared(subject.module, model.example())
    run.figures["quantizers"] = sum("fakequant" in type(each).__name__.lower() for each in made.modules())
    with run.timing("calibrate"):
        sets, quantizer, made = decibels_of_sets(model, prepared, subject.calibration_sets)
    run.figures |= decibels_of(sets)
    with run.timing("finalize"):
        finalized = quantizer.finalize(backend=ExportBackend.CoreAI)
    subject.prepared, subject.finalized["w8a8"] = made, finalized
    run.figures["finalized"] = weight_decibels(model, made, finalized)


def _quantized(subject: Subject, config: QuantizerConfig, module: nn.Module | None = None) -> nn.Module:
    quantizer = Quantizer(module or subject.module, config)
    prepared = quantizer.prepare(subject.model.example())
    with quantizer.calibration_mode(), torch.no_grad():
        for number in range(2):
            prepared(*subject.model.example(number))
    return quantizer.finalize(backend=ExportBackend.CoreAI)


def _palettized(subject: Subject, config: KMeansPalettizerConfig) -> nn.Module:
    palettizer = KMeansPalettizer(subject.module, config)
    palettizer.prepare(subject.model.example())
    return palettizer.finalize(backend=ExportBackend.CoreAI)


_COMPRESSIONS: dict[str, Callable[[Subject], nn.Module]] = {
    "w8a8": lambda subject: _quantized(subject, QuantizerConfig()),
    "w8": lambda subject: _quantized(subject, QuantizerConfig.presets.w8()),
    "w4": lambda subject: _quantized(subject, QuantizerConfig.presets.w4()),
    "p4": lambda subject: _palettized(subject, KMeansPalettizerConfig()),
    "joint": lambda subject: _quantized(subject, _ACTIVATIONS, _palettized(subject, _INT8_TABLES)),
}


def compress(kind: str, subject: Subject, run: StageRun) -> None:
    """Another way of compressing."""
    finalized = subject.finalized[kind] = _COMPRESSIONS[kind](subject)
    run.figures["decibels"] = weight_decibels(subject.model, subject.module, finalized)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zoo-") as directory:
        yield Path(directory)


def to_coreai(kind: str, subject: Subject, run: StageRun) -> None:
    """Convert, run in Core AI's runtime, and compare with the finalized module."""
    finalized, example = subject.finalized_as(kind), subject.model.example()

    with _folder() as folder:
        path = folder / "model.aimodel"
        with run.timing("convert"):
            info = coreai.convert(copy.deepcopy(finalized), path, example)
        run.figures["ops"] = executed_operations(path)
        run.figures["bytes"] = info.weight_bytes
        if not info.function().states:
            _judge(coreai.check(path, finalized, example), run)


def to_coreml(kind: str, subject: Subject, run: StageRun) -> None:
    """Convert, evaluate the package's program, and compare with the finalized module."""
    finalized, example = subject.finalized_as(kind), subject.model.example()

    with _folder() as folder:
        path = folder / "model.mlpackage"
        with run.timing("convert"):
            info = coreml.convert(copy.deepcopy(finalized), path, example)
        run.figures["ops"] = sum(info.operations.values())
        if not subject.model.states:
            _judge(coreml.check(path, finalized, example), run)


def _judge(report: Any, run: StageRun) -> None:
    run.figures["max_error"] = float(f"{report.max_error:.3g}")
    if not report.ok:
        lines = [line.strip() for line in str(report).splitlines()[1:] if line.lstrip().startswith("!")]
        raise Fault(f"check: {report.problem or ' '.join(lines)[:300]}")


def batch(subject: Subject, run: StageRun) -> None:
    """Run the model that W8A8 prepared at another batch."""
    if subject.prepared is None:
        raise Skipped("W8A8 fails, or ran in another process")
    inputs = subject.model.example(900, subject.model.batch + 1)
    expected = float_outputs(subject.module, inputs)
    found = float_outputs(subject.prepared, inputs)
    if [each.shape for each in expected] != [each.shape for each in found]:
        raise Fault(f"shapes {[tuple(each.shape) for each in found]} at another batch")


def dynamic(subject: Subject, run: StageRun) -> None:
    """Prepare with dynamic shapes, convert to Core AI, and check at a second size."""
    model = subject.model
    if model.dynamic is None or model.length is None:
        raise Skipped("no dynamic size")
    try:
        torch.export.export(copy.deepcopy(subject.module), model.example(), dynamic_shapes=model.dynamic)
    except Exception as error:
        run.figures["torch.export"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    quantizer = Quantizer(subject.module, QuantizerConfig())
    prepared = quantizer.prepare(model.example(), dynamic_shapes=model.dynamic)
    with quantizer.calibration_mode(), torch.no_grad():
        prepared(*model.example(1))
        prepared(*model.longer(1))
    finalized = quantizer.finalize(backend=ExportBackend.CoreAI)

    with _folder() as folder:
        path = folder / "model.aimodel"
        coreai.convert(finalized, path, model.example(), model.dynamic)
        for inputs in (model.example(), model.longer()):
            _judge(coreai.check(path, finalized, inputs), run)


def states(subject: Subject, run: StageRun) -> None:
    """Calls in a row in Core AI's runtime, with states that persist, against the finalized module."""
    if not subject.model.states:
        raise Skipped("no states")
    finalized = subject.finalized_as("w8a8")

    with _folder() as folder:
        path = folder / "model.aimodel"
        info = coreai.convert(copy.deepcopy(finalized), path, subject.model.example())
        run.figures["states"] = len(info.function().states)
        if not info.function().states:
            raise Fault("the asset has no states")
        module, forgetting = copy.deepcopy(finalized), 0.0
        buffers = {name.replace(".", "_"): buffer for name, buffer in module.named_buffers()}
        with load(path) as loaded:
            for name, state in loaded.states.items():
                found = [buffer for each, buffer in buffers.items() if each.endswith(name) or name.endswith(each)]
                if found:
                    state.copy_(found[0])
            for number in range(_CALLS):
                inputs = subject.model.example(number)
                fresh, expected = (float_outputs(each, inputs) for each in (copy.deepcopy(finalized), module))
                error = _share_of_range(expected, pytree.tree_leaves(loaded(*pytree.tree_leaves(inputs))))
                forgetting = max(forgetting, _share_of_range(expected, fresh))
                run.figures["max_error"] = max(run.figures.get("max_error", 0.0), error)
                if error > _STATE_TOLERANCE:
                    raise Fault(f"call {number} differs by {error:.3g} of the range")
        run.figures["without_states"] = round(forgetting, 3)
        if forgetting <= _STATE_TOLERANCE:
            raise Fault(f"outputs without states differ by {forgetting:.3g} of the range: the calls do not test them")


def _share_of_range(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest difference of the floating outputs, as a share of an output's range."""
    pairs = zip(expected, [each.double() for each in found if each.is_floating_point()], strict=True)
    return max(float((meant - got).abs().max() / (meant.max() - meant.min()).clamp_min(1e-9)) for meant, got in pairs)


def coreai_alone(subject: Subject, run: StageRun) -> None:
    """The converter of Core AI alone, on the float model."""
    import coreai_torch

    program = copy.deepcopy(subject.exported()).run_decompositions(coreai_torch.get_decomp_table())
    converted = coreai_torch.TorchConverter().add_exported_program(program).to_coreai()

    with _folder() as folder:
        converted.save_asset(folder / "model.aimodel")
        run.figures["ops"] = executed_operations(folder / "model.aimodel")
        if not subject.model.states:
            report = coreai.check(folder / "model.aimodel", subject.module, subject.model.example(), 1e-3)
            run.figures["max_error"] = float(f"{report.max_error:.3g}")


def coreml_alone(subject: Subject, run: StageRun) -> None:
    """coremltools alone, on the float model."""
    import coremltools

    program = copy.deepcopy(subject.exported()).run_decompositions({})
    converted = coremltools.convert(
        program,
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS18,
        skip_model_load=True,
    )
    run.figures["ops"] = len(list(converted._mil_program.functions["main"].operations))


Stage = Callable[[Subject, StageRun], None]
_KINDS = ("w8", "w4", "p4", "joint")
STAGES: dict[str, Stage] = {
    "export": export,
    "capture": capture,
    "text": text,
    "w8a8": w8a8,
    "batch": batch,
    "coreai:w8a8": partial(to_coreai, "w8a8"),
    "coreml:w8a8": partial(to_coreml, "w8a8"),
    **{kind: partial(compress, kind) for kind in _KINDS},
    **{f"coreai:{kind}": partial(to_coreai, kind) for kind in _KINDS},
    **{f"coreml:{kind}": partial(to_coreml, kind) for kind in ("w4", "joint")},
    "dynamic": dynamic,
    "states": states,
    "coreai:alone": coreai_alone,
    "coreml:alone": coreml_alone,
}
