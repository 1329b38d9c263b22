"""The quantizer: prepare, calibrate or train, finalize."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from graphpress import pipelines
from graphpress.compressor import Compressor, mode_restored
from graphpress.export_backend import ExportBackend
from graphpress.ir.graph import Graph
from graphpress.passes.configs import ExecutionMode, InvalidExecutionModeError, QuantizerConfig
from graphpress.passes.facts import QUANTIZERS_INSERTED
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, Runner, RunResult
from graphpress.passes.quantization.points import QuantizerNote
from graphpress.passes.specs import FAKE_QUANTIZERS
from graphpress.quantization.capture import capture, flat_arguments
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.outlining import emit_finalized, emit_prepared
from graphpress.quantization.parameters import AttachParameters, read_back


class UncalibratedWarning(UserWarning):
    """Quantizers that saw no data when the model was finalized."""


class NonFiniteCalibrationWarning(UserWarning):
    """Calibration data with NaN or infinite values, which no range was made from."""


class Quantizer(Compressor[QuantizerConfig]):
    """Quantizes weights, activations, or both.

    ``prepare`` captures the model as a graph, decides on quantizers and emits a module that behaves as the compressed
    model will; ``calibration_mode`` and ``training_mode`` let its quantizers see data; ``finalize`` gives the model a
    backend converts.

    Args:
        model: the model; it is never changed.
        config: what is quantized and how; by default int8 weights per channel and int8 activations per tensor.
    """

    config_class = QuantizerConfig

    def __init__(self, model: nn.Module, config: QuantizerConfig | None = None):
        super().__init__(model, config)
        self._graph: Graph | None = None
        self._result: RunResult | None = None

    # preparing

    def prepare(
        self,
        example_inputs: Any,
        dynamic_shapes: Any = None,
        export_with_no_grad: bool = True,
        *,
        copy: bool = True,
    ) -> nn.Module:
        """The model with a fake-quantizer at every point of the config, its ranges started by the example.

        Args:
            example_inputs: a tuple of the positional arguments (a lone tensor counts as one), representative of real
                data.
            dynamic_shapes: as `torch.export.export` takes them. Without them the graph is captured at the shapes of
                the example, and
                with a dynamic batch where it would otherwise be bound to the batch of the example.
            export_with_no_grad: capture under ``torch.no_grad()``.
            copy: False lets the prepared model share its parameters with the user's model, to save memory.

        Returns:
            a module in eval mode, called like the model.

        Raises:
            LifeCycleError: when this quantizer has prepared its model already.
            ExportError: when the model cannot be captured with these inputs.
            QuantizationError, UnmatchedConfigError: when the config does not fit the model.
        """
        self._check_unprepared()
        if self._config.execution_mode is not ExecutionMode.GRAPH:
            raise InvalidExecutionModeError(
                f"execution_mode {self._config.execution_mode.value!r} is not available; accepted: 'graph'"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not export_with_no_grad):
            graph = capture(self._model, example_inputs, dynamic_shapes)
        result = Runner().run(graph, pipelines.prepare(self._config), in_place=True)
        prepared = emit_prepared(result.graph, _fake_quantizers(result.graph), copy_constants=copy)
        prepared.eval()
        self._start_ranges(prepared, example_inputs)
        self._graph, self._result = result.graph, result
        return self._finish_preparing(prepared)

    def _start_ranges(self, prepared: nn.Module, example_inputs: Any) -> None:
        """The example counts as one observation."""
        with _switched(prepared, observer=True, fake_quant=False), torch.no_grad():
            prepared(*flat_arguments(example_inputs))

    # modes

    @contextmanager
    def calibration_mode(self) -> Iterator[nn.Module]:
        """Let quantizers observe the data that the prepared model is run on.

        Inside, nothing is fake-quantized, so the outputs are those of the float model, and no gradients are recorded.
        Outside again, quantizers stop observing, and fake-quantize. Every module gets its mode back, after an
        exception too.
        """
        with self._entered("calibration_mode") as prepared, mode_restored(prepared):
            prepared.eval()
            with _switched(prepared, observer=True, fake_quant=False, after=(False, True)), torch.no_grad():
                yield prepared

    @contextmanager
    def training_mode(self) -> Iterator[nn.Module]:
        """Train the prepared model with fake-quantizers on and observing. Outside again, it is in eval mode, not
        observing.
        """
        with self._entered("training_mode") as prepared:
            prepared.train()
            try:
                with _switched(prepared, observer=True, fake_quant=True, after=(False, True)):
                    yield prepared
            finally:
                prepared.eval()

    def enable_observer(self, module: nn.Module | None = None) -> None:
        """Let the quantizers in `module` (default: all) observe."""
        self._switch(module, observer=True)

    def disable_observer(self, module: nn.Module | None = None) -> None:
        """Let the quantizers in `module` (default: all) stop observing."""
        self._switch(module, observer=False)

    def enable_fake_quant(self, module: nn.Module | None = None) -> None:
        """Let the quantizers in `module` (default: all) fake-quantize."""
        self._switch(module, fake_quant=True)

    def disable_fake_quant(self, module: nn.Module | None = None) -> None:
        """Let the quantizers in `module` (default: all) pass values through."""
        self._switch(module, fake_quant=False)

    def _switch(self, module: nn.Module | None, observer: bool | None = None, fake_quant: bool | None = None) -> None:
        for quantizer in _quantizers_of(self.prepared_model if module is None else module):
            quantizer.observer_enabled = quantizer.observer_enabled if observer is None else observer
            quantizer.fake_quant_enabled = quantizer.fake_quant_enabled if fake_quant is None else fake_quant

    # finalizing

    def finalize(
        self,
        model: nn.Module | None = None,
        backend: ExportBackend = ExportBackend.CoreAI,
        *,
        mmap_dir: str | None = None,
    ) -> nn.Module:
        """The quantized model in the form `backend` converts; the prepared model stays usable.

        Args:
            model: the prepared model or a copy of it; by default the prepared model.
            backend: where the model goes.
            mmap_dir: a folder; packed weights are written there and mapped, so that they need no memory.

        Raises:
            LifeCycleError: before `prepare`, or for a model that this quantizer did not prepare.
            LoweringError: for something the backend cannot store.
        """
        prepared = self._prepared_or(model)
        backend = ExportBackend.of(backend)
        assert self._graph is not None
        graph = self._graph.clone()
        read_back(graph, prepared)
        quantizers = {quantizer.name: quantizer for quantizer in _quantizers_of(prepared)}
        self._warn_about_calibration(quantizers)
        attach = Pipeline(FoldConstants(), AttachParameters(quantizers), assume=[QUANTIZERS_INSERTED])
        graph = Runner().run(graph, attach, in_place=True).graph
        graph = Runner().run(graph, pipelines.finalize(backend), in_place=True).graph
        return emit_finalized(graph, mmap_dir=mmap_dir)

    def _warn_about_calibration(self, quantizers: dict[str, FakeQuantizeImplBase]) -> None:
        """Warn about quantizers that saw too little, and about data that was no data."""
        from graphpress.quantization.calculators import StatefulQParamsCalculatorBase

        stateful = [
            (quantizer.name, calculator)
            for quantizer in quantizers.values()
            if isinstance(calculator := quantizer.calculator, StatefulQParamsCalculatorBase)
            and None in quantizer.spec.float_range
        ]
        seen_once = [name for name, calculator in stateful if int(calculator.observations) <= 1]
        if seen_once:
            warnings.warn(
                f"{len(seen_once)} quantizers saw only the example given to prepare(): {_shown(seen_once)}; run data "
                "through the prepared model inside calibration_mode() before finalize()",
                UncalibratedWarning,
                stacklevel=3,
            )
        skipped = [name for name, calculator in stateful if int(calculator.skipped)]
        if skipped:
            most = max(int(calculator.skipped) for _, calculator in stateful)
            warnings.warn(
                f"{len(skipped)} quantizers left out up to {most} calibration tensors that were not finite (NaN or "
                f"infinite): {_shown(skipped)}",
                NonFiniteCalibrationWarning,
                stacklevel=3,
            )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _fake_quantizers(graph: Graph) -> dict[str, FakeQuantizeImplBase]:
    """A module for every quantizer of a prepared graph, by name."""
    made: dict[str, FakeQuantizeImplBase] = {}
    for node in graph.nodes:
        note = node.annotation(QuantizerNote)
        if note is None or note.quantizer.name in made:
            continue
        quantizer = note.quantizer
        cls: Callable[..., FakeQuantizeImplBase] = FAKE_QUANTIZERS.resolve(quantizer.spec.fake_quantize_cls)
        made[quantizer.name] = cls(quantizer.name, quantizer.spec, quantizer.block_size, is_state=quantizer.is_state)
    return made


def _quantizers_of(module: nn.Module) -> Sequence[FakeQuantizeImplBase]:
    return [m for m in module.modules() if isinstance(m, FakeQuantizeImplBase)]


@contextmanager
def _switched(
    module: nn.Module, *, observer: bool, fake_quant: bool, after: tuple[bool, bool] | None = None
) -> Iterator[None]:
    """Both switches of every quantizer in `module` as given; afterwards as in `after`, by default as they were."""
    quantizers = _quantizers_of(module)
    before = [(q.observer_enabled, q.fake_quant_enabled) for q in quantizers]
    for quantizer in quantizers:
        quantizer.observer_enabled, quantizer.fake_quant_enabled = observer, fake_quant
    try:
        yield
    finally:
        for quantizer, switches in zip(quantizers, before, strict=True):
            quantizer.observer_enabled, quantizer.fake_quant_enabled = after or switches
