"""The quantizer of weights and activations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from graphpress.compressor import (
    Compressor,
    LifeCycleError,
    UnusedScheduleWarning,
    count_from_zero,
    count_step,
    forget_preparation,
    load_prepared,
    mode_restored,
    steps_of,
)
from graphpress.export_backend import ExportBackend
from graphpress.ir.torch.arguments import Arguments
from graphpress.modules.restoring import with_stored_parameters
from graphpress.modules.sites import SUPPORTED_MODULES
from graphpress.passes.config import (
    BiasCorrection,
    ExecutionMode,
    InvalidExecutionModeError,
    QuantizerConfig,
    WholeWeightsWarning,
)
from graphpress.programs import Model
from graphpress.quantization.batch_norm import keep_frozen, norms_of, set_frozen
from graphpress.quantization.calculators import QParamsCalculatorBase
from graphpress.quantization.capture import preserve_attributes, states_restored_in
from graphpress.quantization.eager import EagerExecution
from graphpress.quantization.eager.quantized_module import refuse_waiting
from graphpress.quantization.execution import (
    Execution,
    NonFiniteCalibrationWarning,
    UncalibratedWarning,
    warn_about_calibration,
)
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.graph_mode import GraphExecution
from graphpress.quantization.refinement.costs import QuantizerCost, quantizer_costs
from graphpress.quantization.switches import (
    advance_switches,
    parts_for,
    quantizers_by_module,
    quantizers_of,
    set_switches,
    switched,
    switches_of,
)

__all__ = ["NonFiniteCalibrationWarning", "Quantizer", "QuantizerCost", "UncalibratedWarning"]

_EXECUTIONS: dict[ExecutionMode, type[Execution]] = {
    ExecutionMode.GRAPH: GraphExecution,
    ExecutionMode.EAGER: EagerExecution,
}


class Quantizer(Compressor[QuantizerConfig]):
    """Quantizes the weights and activations of a model.

    ``prepare`` inserts fake-quantizers, which simulate the quantized model; ``calibration_mode`` and ``training_mode``
    determine their parameters from data; ``finalize`` returns the model for a backend.

    Args:
        model: a module, or an exported program; it is not changed.
        config: the config; None is int8 weights per channel and int8 activations per tensor.
    """

    config_class = QuantizerConfig

    def __init__(self, model: Model, config: QuantizerConfig | None = None):
        super().__init__(model, config)
        self._execution: Execution | None = None
        self._trained = False

    @staticmethod
    def supported_modules() -> tuple[type[nn.Module], ...]:
        """Return the module classes whose weights are quantized by default; configs can name other parameters."""
        return SUPPORTED_MODULES

    # preparing

    def prepare(
        self,
        example_inputs: Any = None,
        dynamic_shapes: Any = None,
        export_with_no_grad: bool = True,
        *,
        strict: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,
        copy: bool | None = None,
        leave_indivisible: bool | None = None,
    ) -> nn.Module:
        """Insert fake-quantizers as the config requests, with initial ranges from the example.

        Args:
            example_inputs: a tuple of the positional arguments, a single tensor, or a dict of the arguments by name,
                representative of real data. An exported program has its own by default.
            dynamic_shapes: as for `torch.export.export`. Without them the graph is captured at the shapes of the
                example, with a dynamic batch if it would otherwise depend on the batch size of the example. An exported
                program keeps its own shapes.
            export_with_no_grad: capture under ``torch.no_grad()``.
            strict: capture the byte code of the model (`torch.export`'s strict mode) instead of a run of it.
            state_dict: of a model that was prepared with the same config. Its numbers are loaded, and nothing is
                observed; None starts afresh.
            copy: False shares the parameters of the prepared model with the user's model, to save memory; None copies.
            leave_indivisible: how to treat weights that do not divide into blocks. True skips them with a
                `WholeWeightsWarning`; False raises an error; None raises an error only if the config selects them in
                particular, or if no other weight is quantized.

        Returns:
            the prepared model, in eval mode, with the model's call signature.

        Raises:
            LifeCycleError: if this quantizer has already prepared its model.
            ExportError: if the model cannot be captured with these inputs.
            QuantizationError, UnmatchedConfigError: if the config does not fit the model, or the inputs do not.
            StateDictError: if `state_dict` has other entries than the prepared model.
        """
        self._check_may_prepare()
        execution = _execution(self._config)
        arguments = self._arguments(example_inputs)
        prepared = execution.prepare(
            self._model if isinstance(self._model, ExportedProgram) else with_stored_parameters(self._model),
            arguments,
            dynamic_shapes,
            no_grad=export_with_no_grad,
            strict=strict,
            copy=copy,
            leave_indivisible=leave_indivisible,
        )
        preserve_attributes(self._config.preserved_attributes, self._model, prepared)
        self._report_skipped(execution.skipped_weights, WholeWeightsWarning)
        count_from_zero(prepared)
        if state_dict is None:
            self._run_example(execution, prepared, arguments, observer=True)
        else:
            if self._config.execution_mode is ExecutionMode.EAGER:  # which places quantizers in the first run
                self._run_example(execution, prepared, arguments, observer=False)
            load_prepared(prepared, state_dict)
            refuse_waiting(prepared)
        self._execution = execution
        return self._finish_preparing(prepared)

    def _run_example(self, execution: Execution, prepared: nn.Module, arguments: Arguments, *, observer: bool) -> None:
        """Run the example once, which is observed if `observer`; all other state is restored."""
        with switched(prepared, observer=observer, fake_quant=False), states_restored_in(prepared), torch.no_grad():
            execution.run_example(prepared, arguments, type(self._model).__name__)
        for module in prepared.modules() if observer else ():
            if isinstance(module, QParamsCalculatorBase):
                module.observed_example()

    # modes

    @contextmanager
    def calibration_mode(
        self, model: nn.Module | None = None, *, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[nn.Module]:
        """Observe the data on which the prepared model, or `model`, a copy of it, is run.

        Inside, fake-quantization and gradients are off, so outputs are those of the float model. On exit, quantizers
        stop observing and fake-quantize; inside `training_mode` they resume their former state. The modes of all
        modules are restored, also after an exception, and so are states, buffers that the model writes, such as
        key-value caches: they persist from one batch to the next, and not from calibration to inference.

        If the config has `smooth_layers`, or a `weight_rounding`, a `bias_correction` or a `selection` that requires
        data, up to 1 GB of inputs are kept. On exit, the factors of smoothed layers are computed from them, and the
        ranges of activations are observed afresh; then codes are chosen and biases corrected, layer by layer;
        `progress` is then called with the number of steps done and their total.
        """
        with self._entered("calibration_mode", model) as prepared, mode_restored(prepared):
            prepared.eval()
            after = None if "training_mode" in self._open else (False, True)
            assert self._execution is not None
            with (
                self._execution.calibrating(prepared, progress),
                switched(prepared, observer=True, fake_quant=False, after=after),
                states_restored_in(prepared),
                torch.no_grad(),
            ):
                yield prepared

    @contextmanager
    def training_mode(self, model: nn.Module | None = None) -> Iterator[nn.Module]:
        """Train the prepared model, with quantizers that observe and fake-quantize by their schedules.

        `model` is the prepared model or a copy of it; None is the prepared model.

        Without a schedule (`QATSchedule`), a quantizer does both. On exit, also after an exception, the model is in
        eval mode and every quantizer fake-quantizes without observing.

        Raises:
            LifeCycleError: inside `calibration_mode`, which records no gradients.
        """
        if "calibration_mode" in self._open:
            raise LifeCycleError("calibration_mode is open and records no gradients; leave it before training")
        with self._entered("training_mode", model) as prepared:
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
        """Count one training step, and set the switches that schedules change at it.

        The count is in the `state_dict` of the prepared model, so training can be resumed. Call it once per batch or
        once per epoch, in the unit of the schedules. Switches set by the user remain until a schedule changes them.
        """
        prepared = self._in_training
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
        """Enable observation in all quantizers, or in those of `module`.

        Args:
            module: a submodule of the prepared model; one at the path of a module in the user's model selects the
                quantizers of that module. None selects all.

        Raises:
            NoSuchPartError: if `module` has no quantizers.
        """
        self._switch(module, observer=True)

    def disable_observer(self, module: nn.Module | None = None) -> None:
        """Disable observation, which keeps the ranges; `module` as in `enable_observer`."""
        self._switch(module, observer=False)

    def enable_fake_quant(self, module: nn.Module | None = None) -> None:
        """Enable fake-quantization; `module` as in `enable_observer`."""
        self._switch(module, fake_quant=True)

    def disable_fake_quant(self, module: nn.Module | None = None) -> None:
        """Disable fake-quantization, so that values pass through; `module` as in `enable_observer`."""
        self._switch(module, fake_quant=False)

    def _switch(self, module: nn.Module | None, observer: bool | None = None, fake_quant: bool | None = None) -> None:
        for switch in parts_for(self.prepared_model, module, switches_of, "quantizers"):
            switch.observer_enabled = switch.observer_enabled if observer is None else observer
            switch.fake_quant_enabled = switch.fake_quant_enabled if fake_quant is None else fake_quant

    @property
    def _execution_mode(self) -> ExecutionMode:
        """The config's execution mode, under the name that clients of coreai-opt read."""
        return self._config.execution_mode

    def _get_fake_quantize_modules(self) -> dict[str, list[FakeQuantizeImplBase]]:
        """Return the fake-quantizers of the prepared model, by the path of each module that they belong to."""
        return quantizers_by_module(self.prepared_model)

    def freeze_batch_norm(self, module: nn.Module | None = None) -> None:
        """Train batch norms with fixed running statistics.

        This includes norms that are folded into a convolution or linear layer. Their weight and bias are still trained.
        It applies until `unfreeze_batch_norm`, in any mode of the model.

        Args:
            module: a submodule of the prepared model, whose norms are selected; None selects all.

        Raises:
            NoSuchPartError: if `module` has no batch norms.
        """
        self._freeze(module, frozen=True)

    def unfreeze_batch_norm(self, module: nn.Module | None = None) -> None:
        """Train batch norms with batch statistics again; `module` as in `freeze_batch_norm`."""
        self._freeze(module, frozen=False)

    def _freeze(self, module: nn.Module | None, frozen: bool) -> None:
        prepared = self.prepared_model
        for norm in parts_for(prepared, module, norms_of, "batch norms"):
            set_frozen(norm, frozen, training=prepared.training)

    def costs(
        self,
        batches: Iterable[Any],
        model: nn.Module | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[QuantizerCost]:
        """Measure what each activation quantizer alone costs in the outputs, the most expensive first.

        The float model runs once on each batch; each quantizer takes one more run from its value on, in which all
        others, those of weights too, are off.

        Args:
            batches: arguments of the model, each as the `example_inputs` of `prepare`.
            model: the prepared model or a copy of it, after calibration; None is the prepared model.
            progress: called with the number of quantizers done and their total.

        Raises:
            InvalidExecutionModeError: in eager mode, which has no graph to resume in.
        """
        prepared = self._prepared_or(model)
        if not isinstance(prepared, fx.GraphModule):
            raise InvalidExecutionModeError(
                f"costs cannot be measured in execution_mode {self._config.execution_mode.value!r}; accepted: 'graph'"
            )
        with mode_restored(prepared), torch.no_grad():
            prepared.eval()
            calls = [Arguments.of(batch) for batch in batches]
            inputs = [(call.positional, dict(call.named)) for call in calls]
            return quantizer_costs(prepared, inputs, progress=progress)

    # finalizing

    def finalize(
        self,
        model: nn.Module | None = None,
        backend: ExportBackend = ExportBackend.CoreAI,
        *,
        mmap_dir: str | None = None,
    ) -> nn.Module:
        """Return the quantized model in the form that `backend` converts; the prepared model remains usable.

        States have the values that they had in `prepare`.

        Args:
            model: the prepared model or a copy of it; None is the prepared model.
            backend: the form of the result.
            mmap_dir: a folder for memory-mapped files of packed weights; None keeps them in memory.

        Raises:
            LifeCycleError: before `prepare`, or for a model that this quantizer did not prepare.
            ModelError: if its tensors have no data, as on the meta device.
            LoweringError: for quantization that the backend cannot store.
        """
        prepared = self._finalizable(model)
        backend = ExportBackend.of(backend)
        assert self._execution is not None
        warn_about_calibration(quantizers_of(prepared))
        finalized = self._execution.finalize(prepared, backend, mmap_dir)
        preserve_attributes(self._config.preserved_attributes, self._model, finalized)
        forget_preparation(finalized)
        return finalized


def _execution(config: QuantizerConfig) -> Execution:
    _check_mode(config)
    return _EXECUTIONS[config.execution_mode](config)


def _check_mode(config: QuantizerConfig) -> None:
    """Reject options that require a captured graph."""
    asked = {
        "weight_rounding": config.weight_rounding.type_name != "nearest",
        "equalize_layers": config.equalize_layers,
        "rotate_residual": config.rotate_residual,
        "smooth_layers": config.smooth_layers is not None,
        "bias_correction": config.bias_correction is not BiasCorrection.NONE,
        "selection": config.selection is not None,
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    if names and config.execution_mode is not ExecutionMode.GRAPH:
        raise InvalidExecutionModeError(
            f"{' and '.join(names)} cannot be used in execution_mode {config.execution_mode.value!r}; accepted: 'graph'"
        )
