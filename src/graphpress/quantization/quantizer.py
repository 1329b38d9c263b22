"""The quantizer: prepare, calibrate or train, finalize."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from graphpress.compressor import (
    Compressor,
    LifeCycleError,
    UnusedScheduleWarning,
    count_from_zero,
    count_step,
    mode_restored,
    steps_of,
    stop_counting,
)
from graphpress.export_backend import ExportBackend
from graphpress.modules.restoring import with_stored_parameters
from graphpress.passes.config import (
    BiasCorrection,
    ExecutionMode,
    InvalidExecutionModeError,
    QuantizerConfig,
    WholeWeightsWarning,
)
from graphpress.quantization.batch_norm import keep_frozen, norms_of, set_frozen
from graphpress.quantization.capture import buffers_restored, flat_arguments, preserve_attributes
from graphpress.quantization.eager import EagerExecution
from graphpress.quantization.execution import (
    Execution,
    NonFiniteCalibrationWarning,
    UncalibratedWarning,
    warn_about_calibration,
)
from graphpress.quantization.graph_mode import GraphExecution
from graphpress.quantization.switches import (
    advance_switches,
    parts_for,
    quantizers_of,
    set_switches,
    switched,
    switches_of,
)

__all__ = ["NonFiniteCalibrationWarning", "Quantizer", "UncalibratedWarning"]

_EXECUTIONS: dict[ExecutionMode, type[Execution]] = {
    ExecutionMode.GRAPH: GraphExecution,
    ExecutionMode.EAGER: EagerExecution,
}


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
        self._execution: Execution | None = None
        self._trained = False

    # preparing

    def prepare(
        self,
        example_inputs: Any,
        dynamic_shapes: Any = None,
        export_with_no_grad: bool = True,
        *,
        copy: bool = True,
        leave_indivisible: bool = False,
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
            leave_indivisible: what to do with weights that blocks do not divide. True skips them, with a
                `WholeWeightsWarning` that names them; False makes them an error.

        Returns:
            a module in eval mode, called like the model.

        Raises:
            LifeCycleError: when this quantizer has prepared its model already.
            ExportError: when the model cannot be captured with these inputs.
            QuantizationError, UnmatchedConfigError: when the config does not fit the model.
        """
        self._check_unprepared()
        execution = _execution(self._config)
        prepared = execution.prepare(
            with_stored_parameters(self._model),
            example_inputs,
            dynamic_shapes,
            no_grad=export_with_no_grad,
            copy=copy,
            leave_indivisible=leave_indivisible,
        )
        preserve_attributes(self._config.preserved_attributes, self._model, prepared)
        self._report_skipped(execution.skipped_weights, WholeWeightsWarning)
        count_from_zero(prepared)
        self._start_ranges(prepared, example_inputs)
        self._execution = execution
        return self._finish_preparing(prepared)

    def _start_ranges(self, prepared: nn.Module, example_inputs: Any) -> None:
        """The example counts as one observation, and leaves nothing else behind."""
        with switched(prepared, observer=True, fake_quant=False), buffers_restored(prepared), torch.no_grad():
            prepared(*flat_arguments(example_inputs))

    # modes

    @contextmanager
    def calibration_mode(self) -> Iterator[nn.Module]:
        """Let quantizers observe the data that the prepared model is run on.

        Inside, nothing is fake-quantized, so the outputs are those of the float model, and no gradients are recorded.
        Outside again, quantizers stop observing, and fake-quantize; inside `training_mode` they go on as before. Every
        module gets its mode back, after an exception too.

        Where the config has a `weight_rounding` or `bias_correction` that needs data, the inputs are kept (1 GB of them
        at most), and on leaving, codes are chosen and biases corrected layer by layer, from these inputs alone.
        """
        with self._entered("calibration_mode") as prepared, mode_restored(prepared):
            prepared.eval()
            after = None if "training_mode" in self._open else (False, True)
            assert self._execution is not None
            with (
                self._execution.calibrating(prepared),
                switched(prepared, observer=True, fake_quant=False, after=after),
                torch.no_grad(),
            ):
                yield prepared

    @contextmanager
    def training_mode(self) -> Iterator[nn.Module]:
        """Train the prepared model, with quantizers observing and fake-quantizing as the schedules say.

        Without a schedule (`QATSchedule`), a quantizer does both. Outside again, after an exception too, the model is
        in eval mode, and every quantizer fake-quantizes without observing.

        Raises:
            LifeCycleError: inside `calibration_mode`, which records no gradients.
        """
        if "calibration_mode" in self._open:
            raise LifeCycleError("calibration_mode is open, which records no gradients; leave it before training")
        with self._entered("training_mode") as prepared:
            self._warn_about_schedules(prepared)
            prepared.train()
            keep_frozen(prepared)
            try:
                with switched(prepared, observer=True, fake_quant=True, after=(False, True)):
                    set_switches(quantizers_of(prepared), steps_of(prepared))
                    yield prepared
            finally:
                self._trained = True
                prepared.eval()

    def step(self) -> None:
        """Count one step of training, and switch what the schedules switch at it.

        The count is in the `state_dict` of the prepared model, so training resumes where it was saved. Call it once per
        batch or once per epoch, whichever the schedules count. Switches set by hand stay until a schedule's turn comes.
        """
        prepared = self.prepared_model
        steps = count_step(prepared)
        if "training_mode" in self._open and "calibration_mode" not in self._open:
            advance_switches(quantizers_of(prepared), steps)

    def _warn_about_schedules(self, prepared: nn.Module) -> None:
        scheduled = any(quantizer.schedule is not None for quantizer in quantizers_of(prepared))
        if self._trained and scheduled and not steps_of(prepared):
            warnings.warn(
                "the config has training schedules, but step() was never called: they stay at their first step",
                UnusedScheduleWarning,
                stacklevel=4,
            )

    def enable_observer(self, module: nn.Module | None = None) -> None:
        """Let quantizers observe: all, or those in `module`, a submodule of the prepared model.

        A path of the user's model is one of the prepared model, too, and stands for the quantizers of that module.

        Raises:
            NoSuchPartError: when `module` has no quantizers.
        """
        self._switch(module, observer=True)

    def disable_observer(self, module: nn.Module | None = None) -> None:
        """Let quantizers stop observing, which keeps their ranges; `module` as in `enable_observer`."""
        self._switch(module, observer=False)

    def enable_fake_quant(self, module: nn.Module | None = None) -> None:
        """Let quantizers fake-quantize; `module` as in `enable_observer`."""
        self._switch(module, fake_quant=True)

    def disable_fake_quant(self, module: nn.Module | None = None) -> None:
        """Let quantizers pass values through; `module` as in `enable_observer`."""
        self._switch(module, fake_quant=False)

    def _switch(self, module: nn.Module | None, observer: bool | None = None, fake_quant: bool | None = None) -> None:
        for switch in parts_for(self.prepared_model, module, switches_of, "quantizers"):
            switch.observer_enabled = switch.observer_enabled if observer is None else observer
            switch.fake_quant_enabled = switch.fake_quant_enabled if fake_quant is None else fake_quant

    def freeze_batch_norm(self, module: nn.Module | None = None) -> None:
        """Let batch norms train with the running statistics they have, which stay as they are.

        Norms that are folded into a convolution or linear layer are meant, too. Their weight and bias still learn. It
        holds until `unfreeze_batch_norm`, whatever the mode of the model.

        Args:
            module: a submodule of the prepared model, whose norms are meant; None is all.

        Raises:
            NoSuchPartError: when `module` has no batch norms.
        """
        self._freeze(module, frozen=True)

    def unfreeze_batch_norm(self, module: nn.Module | None = None) -> None:
        """Let batch norms train with the statistics of the batch again; `module` as in `freeze_batch_norm`."""
        self._freeze(module, frozen=False)

    def _freeze(self, module: nn.Module | None, frozen: bool) -> None:
        prepared = self.prepared_model
        for norm in parts_for(prepared, module, norms_of, "batch norms"):
            set_frozen(norm, frozen, training=prepared.training)

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
        assert self._execution is not None
        warn_about_calibration(quantizers_of(prepared))
        finalized = self._execution.finalize(prepared, backend, mmap_dir)
        preserve_attributes(self._config.preserved_attributes, self._model, finalized)
        stop_counting(finalized)
        return finalized


def _execution(config: QuantizerConfig) -> Execution:
    _check_mode(config)
    return _EXECUTIONS[config.execution_mode](config)


def _check_mode(config: QuantizerConfig) -> None:
    """Refuse what only a captured graph has: the order of layers, and what lies between them."""
    asked = {
        "weight_rounding": config.weight_rounding.type_name != "nearest",
        "equalize_layers": config.equalize_layers,
        "bias_correction": config.bias_correction is not BiasCorrection.NONE,
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    if names and config.execution_mode is not ExecutionMode.GRAPH:
        raise InvalidExecutionModeError(
            f"{' and '.join(names)} cannot be done in execution_mode {config.execution_mode.value!r}; accepted: 'graph'"
        )
