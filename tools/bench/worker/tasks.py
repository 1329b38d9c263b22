"""The tasks of the benchmark, for either package."""

from __future__ import annotations

import copy
import importlib
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphpress.tools.bench.worker.clock import ExportClock, Outcome, build_subject, median_of, timed
from graphpress.tools.edsr.model import load_trained


def import_package(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Time the package's import, after torch."""
    outcome = Outcome()
    outcome.measure("import", lambda: importlib.import_module(f"{package}.quantization"))
    return outcome


def export_model(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Time `torch.export.export` of the model, without gradients, as `prepare` traces it."""
    outcome = Outcome()
    model, inputs = build_subject(task)
    with torch.no_grad():
        program = outcome.measure("torch.export", lambda: torch.export.export(model, inputs))
    outcome.facts["nodes exported"] = len(program.graph.nodes)
    return outcome


def upscale_with_edsr(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Upscale every `low.*` image of the file `task["images"]` and write the results to `task["upscaled"]`.

    `task["row"]` is `fp32`, `w8a8` (the default configuration), `p4` (4-bit tables, the default one) or `p4a8` (4-bit
    tables of int8 entries, int8 activations). The `calibration.*` images calibrate, in order; the first of them is the
    example input.
    """
    images = load_file(task["images"])
    calibration = [images[name] for name in numbered(images, "calibration")]
    outcome = Outcome()
    model: nn.Module = load_trained()
    if task["row"] == "p4":
        model = outcome.measure("prepare", lambda: _prepare_p4(package, model, (calibration[0],)))
    elif task["row"] != "fp32":
        prepare = {"w8a8": _prepare_w8a8, "p4a8": _prepare_p4a8}[task["row"]]
        quantizer, model = outcome.measure("prepare", lambda: prepare(package, model, (calibration[0],)))
        outcome.measure("calibrate", lambda: calibrate(quantizer, model, calibration))
    with torch.no_grad():
        upscaled = {name: model(images[name]).contiguous() for name in numbered(images, "low")}
    save_file(upscaled, task["upscaled"])
    return outcome


def _prepare_w8a8(package: str, model: nn.Module, example: tuple[torch.Tensor, ...]) -> tuple[Any, nn.Module]:
    quantization = importlib.import_module(f"{package}.quantization")
    quantizer = quantization.Quantizer(model, quantization.QuantizerConfig())
    return quantizer, quantizer.prepare(example, dynamic_shapes=_any_size())


def _prepare_p4(package: str, model: nn.Module, example: tuple[torch.Tensor, ...]) -> nn.Module:
    palettization = importlib.import_module(f"{package}.palettization")
    return palettization.KMeansPalettizer(model, palettization.KMeansPalettizerConfig()).prepare(example)


def _prepare_p4a8(package: str, model: nn.Module, example: tuple[torch.Tensor, ...]) -> tuple[Any, nn.Module]:
    quantization = importlib.import_module(f"{package}.quantization")
    palettization = importlib.import_module(f"{package}.palettization")
    backend = importlib.import_module(package).ExportBackend.CoreAI
    int8 = quantization.QuantizationSpec(dtype=torch.int8, qscheme="symmetric")

    weight = palettization.PalettizationSpec(n_bits=4, lut_qspec=int8)
    palettizer = palettization.KMeansPalettizer(
        model,
        palettization.KMeansPalettizerConfig(
            global_config=palettization.ModuleKMeansPalettizerConfig(op_state_spec={"weight": weight})
        ),
    )
    palettizer.prepare(example)
    quantizer = quantization.Quantizer(
        palettizer.finalize(backend=backend),
        quantization.QuantizerConfig(
            global_config=quantization.ModuleQuantizerConfig(
                op_state_spec=None, op_input_spec={"*": int8}, op_output_spec={"*": int8}
            )
        ),
    )
    return quantizer, quantizer.prepare(example, dynamic_shapes=_any_size())


def _any_size() -> tuple[dict[int, Any], ...]:
    """Return dynamic height and width, since calibration and evaluation images have several sizes."""
    return ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)


def calibrate(quantizer: Any, prepared: nn.Module, batches: list[torch.Tensor]) -> None:
    """Run batches through a prepared model in calibration."""
    with quantizer.calibration_mode(), torch.no_grad():
        for batch in batches:
            prepared(batch)


def numbered(tensors: dict[str, torch.Tensor], kind: str) -> list[str]:
    """Return the names `kind.*`, in order."""
    return sorted(name for name in tensors if name.startswith(f"{kind}."))


def palettize_model(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Palettize every weight with `task["bits"]`, in groups of `task["group"]` output channels if given.

    `task["vector"]` (default 1) is the length of a centroid.
    """
    palettization = importlib.import_module(f"{package}.palettization")
    spec = importlib.import_module(f"{package}.palettization.spec")
    backend = importlib.import_module(package).ExportBackend.CoreAI
    model, inputs = build_subject(task)
    before = {name: model.get_parameter(f"{name}.weight").detach().clone() for name in _names(model)}
    outcome = Outcome()

    group = task.get("group")
    granularity = spec.PerGroupedChannelGranularity(axis=0, group_size=group) if group else spec.PerTensorGranularity()
    weight = spec.PalettizationSpec(n_bits=task["bits"], granularity=granularity, cluster_dim=task.get("vector", 1))
    # The peer's fast mode clusters scalars only.
    options = {"enable_fast_kmeans_mode": False} if weight.cluster_dim > 1 else {}
    config = palettization.KMeansPalettizerConfig(
        global_config=palettization.ModuleKMeansPalettizerConfig(op_state_spec={"weight": weight}, **options)
    )
    with torch.no_grad():
        plain = [timed(lambda: model(*inputs))[1] for _ in range(4)][1:]
        palettizer = palettization.KMeansPalettizer(model, config)
        prepared = outcome.measure("prepare", lambda: palettizer.prepare(inputs))
        after = {name: prepared.get_submodule(name).weight.detach() for name in before}
        outcome.facts["weights"] = len(before)
        outcome.weights = {
            name: (_squares(after[name].double() - weight.double()), _squares(weight.double()))
            for name, weight in before.items()
            if not torch.equal(after[name], weight)
        }
        if package == "graphpress" and weight.cluster_dim == 1:
            _measure_floor(outcome, before, after, group)
        del before, after
        finalized = outcome.measure("finalize", lambda: palettizer.finalize(backend=backend))
        compressed = [timed(lambda: finalized(*inputs))[1] for _ in range(4)][1:]
    outcome.seconds["float forward beside finalized forward"] = median_of(plain)
    outcome.seconds["finalized forward"] = median_of(compressed)
    return outcome


def _names(model: nn.Module) -> list[str]:
    """Return the modules whose weights are palettized by default, one per shared tensor."""
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            found.setdefault(weight.data_ptr(), name)
    return list(found.values())


def _squares(tensor: Tensor) -> float:
    return float(tensor.square().sum())


def _measure_floor(outcome: Outcome, before: dict[str, Tensor], after: dict[str, Tensor], group: int | None) -> None:
    """Time the lower bound of sorting methods: one sort and one assignment of each table's values."""
    assign_scalar = importlib.import_module("graphpress.passes.clustering").assign_scalar
    rows, tables = [], []
    for name, weight in before.items():
        count = len(weight) // group if group and len(weight) % group == 0 else 1
        values = weight.reshape(count, -1).numpy()
        found = [np.unique(row) for row in after[name].reshape(count, -1).numpy()]
        longest = max(len(table) for table in found)
        if longest > 256:
            continue  # skipped
        rows.append(values)
        tables.append(np.stack([np.pad(table, (0, longest - len(table)), mode="edge") for table in found]))

    def floor() -> None:
        for values, table in zip(rows, tables, strict=True):
            np.sort(values, axis=1)
            assign_scalar(values, table)

    outcome.measure("sort and assignment", floor)


def quantize_model(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Quantize the model with the default config.

    Optional arguments: `forwards` (default 5; 0 skips running the model) is the number of calls for the median of the
    forward times, `finalize` (default true) whether to finalize, and `mode` the execution mode.
    """
    quantization = importlib.import_module(f"{package}.quantization")
    backend = importlib.import_module(package).ExportBackend.CoreAI
    model, inputs = build_subject(task)
    outcome = Outcome()

    config = quantization.QuantizerConfig(execution_mode=quantization.ExecutionMode(task.get("mode", "graph")))
    quantizer = quantization.Quantizer(model, config)
    with exports.seconds() as exporting:
        prepared = outcome.measure("prepare", lambda: quantizer.prepare(inputs))
    outcome.seconds["exports inside prepare"] = exporting
    outcome.seconds["prepare without exports"] = {
        clock: seconds - exporting[clock] for clock, seconds in outcome.seconds["prepare"].items()
    }
    outcome.facts["fake-quantizers"] = _fake_quantizers(prepared)
    outcome.facts["nodes prepared"] = _nodes(prepared)
    outcome.facts["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with quantizer.calibration_mode():
        forwards = task.get("forwards", 5)
        _time_forwards(outcome, model, prepared, inputs, forwards, "calibration step")
    _time_forwards(outcome, model, prepared, inputs, forwards, "evaluation forward")
    if task.get("finalize", True):
        finalized = outcome.measure("finalize", lambda: quantizer.finalize(backend=backend))
        outcome.facts["nodes finalized"] = _nodes(finalized)
    return outcome


def _time_forwards(
    outcome: Outcome,
    model: nn.Module,
    prepared: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    count: int,
    name: str,
) -> None:
    """Time `prepared` under `name`, alternating with the float model, so that both see the same machine state."""
    floats, prepareds = [], []
    with torch.no_grad():
        prepared(*inputs)  # the first call fills caches
        for _ in range(count):
            floats.append(timed(lambda: model(*inputs))[1])
            prepareds.append(timed(lambda: prepared(*inputs))[1])
    if count:
        outcome.seconds[f"float forward beside {name}"] = median_of(floats)
        outcome.seconds[name] = median_of(prepareds)


def _fake_quantizers(module: nn.Module) -> int:
    return sum("fakequant" in type(child).__name__.lower() for child in module.modules())


def _nodes(module: nn.Module) -> int:
    return len(module.graph.nodes) if isinstance(module, torch.fx.GraphModule) else 0


def train_model(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Train the model, prepared with the default config, for a few steps.

    A step is forward, backward and an SGD update. Optional arguments: `steps` (default 5) is the number of steps for
    the median, and `mode` the execution mode.
    """
    quantization = importlib.import_module(f"{package}.quantization")
    model, inputs = build_subject(task)
    outcome = Outcome()
    floating = copy.deepcopy(model).train()
    config = quantization.QuantizerConfig(execution_mode=quantization.ExecutionMode(task.get("mode", "graph")))
    quantizer = quantization.Quantizer(model, config)
    prepared = quantizer.prepare(inputs)
    with quantizer.training_mode():
        steps = [_training_step(each, inputs) for each in (floating, prepared)]
        seconds: list[list[dict[str, float]]] = [[], []]
        for step in steps:  # the first one fills caches
            step()
        for _ in range(task.get("steps", 5)):
            for step, runs in zip(steps, seconds, strict=True):
                runs.append(timed(step)[1])
    outcome.seconds["float training step"], outcome.seconds["training step"] = map(median_of, seconds)
    outcome.facts["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return outcome


def _training_step(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    # A tiny learning rate, since random weights could diverge.
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        model(*inputs).float().square().mean().backward()
        optimizer.step()

    return step
