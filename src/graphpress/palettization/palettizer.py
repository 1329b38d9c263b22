"""The palettizer: weights become indices into small lookup tables (LUTs) that k-means finds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from typing import Any, ClassVar, overload

from torch import Tensor, nn

from graphpress.backends.errors import CoreMLExportError
from graphpress.compressor import (
    ArgumentTypeError,
    Compressor,
    LifeCycleError,
    UnusedScheduleWarning,
    count_from_zero,
    count_step,
    load_prepared,
    mode_restored,
    steps_of,
)
from graphpress.eager.observing import Inputs, example_run
from graphpress.export_backend import ExportBackend
from graphpress.modules.coreai_form import stored_for_coreai
from graphpress.modules.dense_form import stored_dense
from graphpress.modules.masks import MASK, mask_beside, remember_pruned
from graphpress.modules.metadata_form import store_described
from graphpress.modules.planning import PlannedWeight, plan_by_modules
from graphpress.modules.restoring import with_masked_floats
from graphpress.modules.sites import SUPPORTED_MODULES
from graphpress.modules.states import states_restored
from graphpress.modules.surgery import Placed, copied, once, placed
from graphpress.palettization.calibration import ActivationCalibration, Sensitivities, SensitivityCalibration
from graphpress.palettization.forms import FakePalettized, install_palettized
from graphpress.palettization.jobs import Found, Job, clustered, sorted_out
from graphpress.palettization.learning import trained_parameters
from graphpress.palettization.training import PalettizationTraining
from graphpress.passes.config import KMeansPalettizerConfig, TableTrainingSpec
from graphpress.passes.weights import PalettizationError, PalettizationWarning, PalettizedWeight, detected_mask
from graphpress.programs import Model


class KMeansPalettizer(Compressor[KMeansPalettizerConfig]):
    """Palettizes the weights of a model: ``prepare`` clusters them, ``finalize`` stores indices and LUTs.

    Args:
        model: a module, or an exported program; it is not changed unless ``prepare(copy=False)`` is called.
        config: the config; None is 4 bits with one LUT per weight, for every weight.
    """

    config_class: ClassVar[type[KMeansPalettizerConfig]] = KMeansPalettizerConfig

    def __init__(self, model: Model, config: KMeansPalettizerConfig | None = None):
        super().__init__(model, config)
        self._seed = 0
        self._num_workers = 1
        self._sensitivities: Sensitivities | None = None
        self._training: PalettizationTraining | None = None
        self._trained = False

    @staticmethod
    def supported_modules() -> tuple[type[nn.Module], ...]:
        """Return the module classes whose weights are palettized by default; configs can name other parameters."""
        return SUPPORTED_MODULES

    def prepare(
        self,
        example_inputs: Inputs = None,
        sensitivity_path: str | PathLike[str] | None = None,
        num_workers: int = 1,
        executor: Executor | None = None,
        seed: int = 0,
        copy: bool | None = None,
        leave_indivisible: bool | None = None,
        *,
        state_dict: Mapping[str, Tensor] | None = None,
    ) -> nn.Module:
        """Cluster the weights and return a model that computes with the palettized ones.

        The result depends only on model, config, sensitivities and seed, not on the number of workers.

        Args:
            example_inputs: a tensor, a tuple of arguments, or a dictionary of them by name. The model runs once on them
                in eval mode, to record which ops read its parameters; None infers the ops from the module types. An
                exported program has its own by default.
            sensitivity_path: a file that `save_sensitivities` wrote, with the importance of each element.
            num_workers: number of threads that cluster weights.
            executor: any `concurrent.futures.Executor`, of processes or of a cluster, to use instead of threads. Jobs
                of lost workers are retried with a warning.
            seed: random seed of vector clustering.
            copy: False palettizes the model itself, which saves the memory of a copy; None copies it.
            leave_indivisible: how to treat weights that do not divide into groups or vectors. True skips them with a
                warning; False raises an error; None raises an error only if the config selects them in particular, or
                if nothing else is palettized.
            state_dict: of a model that was prepared with the same config. Its numbers are loaded, and nothing is
                clustered; None starts afresh.

        Returns:
            the prepared model.

        Raises:
            LifeCycleError: if this palettizer, or another one, has already prepared the model.
            UnmatchedConfigError: if entries of the config match nothing.
            PalettizationError: for weights that cannot be palettized, and for a model that cannot run.
            WorkerError: if workers are lost repeatedly.
            StateDictError: if `state_dict` has other entries than the prepared model.
        """
        self._check_may_prepare()
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
            raise ArgumentTypeError(f"num_workers is {num_workers!r}; it must be an integer of at least 1")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise ArgumentTypeError(
                f"executor is a {type(executor).__name__}; accepted: None, or an object with the method submit of a "
                "concurrent.futures.Executor"
            )
        if isinstance(self.model, nn.Module) and placed(self.model, FakePalettized):
            raise LifeCycleError(
                "the model was prepared by a KMeansPalettizer; pass its finalized model, or the original"
            )
        sensitivities = None if sensitivity_path is None else Sensitivities.load(sensitivity_path)
        instead = "prepare(copy=False) palettizes the model itself"
        model = with_masked_floats(self._working_module(PalettizationError, instead, copy=copy))
        run = example_run(self.model, model, example_inputs, PalettizationError)
        plan = plan_by_modules(model, self.config, run)
        _check_pruned(plan.weights)
        for weight in plan.weights:
            _detect_zeros(weight, state_dict)
        jobs = (
            Job.of(
                each.name,
                each.parameter,
                each.spec,
                each.op_type,
                seed,
                sensitivities,
                _mask_of(each),
                getattr(each.module_config, "vector_kmeans_config", None),
            )
            for each in plan.weights
        )
        if state_dict is None:
            results: list[Found] = [*clustered(jobs, num_workers, executor)]
        else:
            results = [job.unfilled() for job in jobs]
        found = sorted_out(plan.weights, results, leave_indivisible)
        for weight, palettized in found.palettized:
            install_palettized(weight, palettized)
        self._report_skipped((*plan.skipped, *found.skipped), PalettizationWarning)
        self._seed, self._num_workers, self._sensitivities = seed, num_workers, sensitivities
        count_from_zero(model)
        if state_dict is not None:
            load_prepared(model, state_dict)
        return self._finish_preparing(model)

    def finalize(
        self,
        model: nn.Module | None = None,
        backend: ExportBackend | str = ExportBackend.CoreAI,
        *,
        mmap_dir: str | PathLike[str] | None = None,
    ) -> nn.Module:
        """Return a model that holds the palettized weights as `backend` stores them; the prepared model is not changed.

        Args:
            model: the prepared model or a copy of it; None is the prepared model.
            backend: for Core AI, weights become indices and LUTs that `torch.export` and the converter preserve; for
                Core ML, floats with the metadata buffers that coremltools reads; for torch, floats.
            mmap_dir: a folder for memory-mapped files of indices and LUTs; None keeps them in memory.

        Raises:
            LifeCycleError: before `prepare`, or for a model that this palettizer did not prepare.
            ModelError: if its tensors have no data, as on the meta device.
            LoweringError: for weights that the backend cannot store; for Core ML, a `CoreMLExportError`.
        """
        prepared = self._finalizable(model)
        if self._sensitivities is None and self.calibrates_on_data:
            warnings.warn(
                "activation_aware had no data: all elements of weights are equally important; run data through the "
                "prepared model inside calibration_mode(), or pass a sensitivity_path to prepare",
                PalettizationWarning,
                stacklevel=2,
            )
        backend = ExportBackend.of(backend)
        if backend is ExportBackend.CoreAI:
            return stored_for_coreai(prepared, FakePalettized, mmap_dir)
        if backend is ExportBackend.Torch:
            return stored_dense(prepared, FakePalettized, mmap_dir)
        finalized, places = copied(prepared, FakePalettized)
        refused = store_described(finalized, places, mmap_dir)
        if refused:
            lines = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
            raise CoreMLExportError(f"coremltools' compression metadata cannot describe {len(refused)} weights:{lines}")
        return finalized

    @overload
    def calibration_mode(
        self,
        model: nn.Module | None = None,
        *,
        loss_fn: Callable[[Any, Any], Tensor],
        sensitivity_path: str | PathLike[str] | None = None,
    ) -> AbstractContextManager[SensitivityCalibration]: ...

    @overload
    def calibration_mode(
        self,
        model: nn.Module | None = None,
        loss_fn: None = None,
        sensitivity_path: str | PathLike[str] | None = None,
    ) -> AbstractContextManager[ActivationCalibration]: ...

    @contextmanager
    def calibration_mode(
        self,
        model: nn.Module | None = None,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        sensitivity_path: str | PathLike[str] | None = None,
    ) -> Iterator[Any]:
        """Measure the importance of each weight element, and cluster again with it on exit.

        Inside, the model runs in eval mode with its float weights. With a loss, call ``step(output, target)`` on the
        yielded object for each batch: the importance is the mean squared gradient (arXiv 2306.07629). Without a loss,
        run the prepared model on each batch, with or without gradients: for weights whose spec is `activation_aware`,
        the importance is the second moment of the inputs that an element multiplies; elements of other weights are
        equally important. On exit without an exception, weighted k-means finds new LUTs.

        Args:
            model: the prepared model or a copy of it; None is the prepared model.
            loss_fn: maps output and target to a scalar loss; None measures second moments of inputs.
            sensitivity_path: a file in which to save the importances on exit, for `prepare`.

        Raises:
            LifeCycleError: before `prepare`, if nested, and without a loss if no spec is `activation_aware`.
            ArgumentTypeError: if `loss_fn` is no function.
        """
        with self._entered("calibration_mode", model) as prepared, mode_restored(prepared):
            prepared.eval()
            calibration: SensitivityCalibration | ActivationCalibration
            if loss_fn is not None:
                calibration = SensitivityCalibration(prepared, loss_fn)
            elif self.calibrates_on_data:
                calibration = ActivationCalibration(prepared)
            else:
                raise LifeCycleError(
                    "calibration_mode has nothing to measure: pass loss_fn to measure gradients, or set "
                    "activation_aware=True in a PalettizationSpec to measure inputs"
                )
            with calibration.float_weights(), states_restored(prepared):
                yield calibration
        if not calibration.steps:
            wanted = "step(output, target)" if loss_fn is not None else "run of the prepared model"
            wanted += " with finite values" if calibration.ignored else ""
            warnings.warn(
                f"calibration_mode saw no {wanted}: the lookup tables are unchanged", PalettizationWarning, stacklevel=3
            )
            return
        self._sensitivities = calibration.sensitivities()
        self._cluster_again(placed(prepared, FakePalettized))
        if sensitivity_path is not None:
            self.save_sensitivities(sensitivity_path)

    @property
    def calibrates_on_data(self) -> bool:
        """True if `calibration_mode` needs no loss, since the spec of a weight is `activation_aware`.

        Raises:
            LifeCycleError: before `prepare`.
        """
        return any(each.form.spec.activation_aware for each in placed(self.prepared_model, FakePalettized))

    def save_sensitivities(self, path: str | PathLike[str]) -> None:
        """Write the importances of the last `calibration_mode` or `prepare` to a file that `prepare` accepts.

        Raises:
            LifeCycleError: if nothing was measured.
        """
        if self._sensitivities is None:
            raise LifeCycleError("no sensitivities were measured yet: run calibration_mode first")
        self._sensitivities.save(path)

    @contextmanager
    def training_mode(self, model: nn.Module | None = None) -> Iterator[PalettizationTraining]:
        """Train with palettized weights, each from the start step of its schedule.

        `model` is the prepared model or a copy of it; None is the prepared model.

        `training_strategy_spec` selects what is trained besides the rest of the model: nothing of the palettized
        weights (`DefaultTrainingSpec`), the float weights with indices that follow them
        (`StraightThroughTrainingSpec`), or LUT entries and channel scales, which are parameters of the prepared model
        (`TableTrainingSpec`). Before its start step, a weight is float; at that step it is clustered again.

        Call ``step()`` on the yielded object or on the palettizer after each optimizer step or each epoch. On exit,
        also after an exception, the model is in eval mode with all weights palettized.

        Raises:
            LifeCycleError: before `prepare`, and if nested.
        """
        with self._entered("training_mode", model) as prepared:
            self._warn_about_schedules(prepared)
            prepared.train()
            self._training = PalettizationTraining(prepared, self._cluster_again)
            try:
                yield self._training
            finally:
                self._training.finish()
                self._training, self._trained = None, True
                prepared.eval()

    def step(self) -> None:
        """Count one training step, and palettize the weights whose schedules start at it.

        The count is in the `state_dict` of the prepared model, so training can be resumed. Call it once per batch or
        once per epoch, in the unit of the schedules.

        Raises:
            LifeCycleError: before `prepare`.
        """
        if self._training is None:
            count_step(self.prepared_model)
        else:
            self._training.step()

    def table_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that a `TableTrainingSpec` trains, LUT entries and changes of scales, for an optimizer.

        Raises:
            LifeCycleError: before `prepare`.
        """
        found: dict[int, nn.Parameter] = {}
        for each in placed(self.prepared_model, FakePalettized):
            for parameter in trained_parameters(each.module, each.form.name):
                found.setdefault(id(parameter), parameter)
        return list(found.values())

    def _warn_about_schedules(self, prepared: nn.Module) -> None:
        scheduled = any(each.form.start for each in placed(prepared, FakePalettized))
        if self._trained and scheduled and not steps_of(prepared):
            warnings.warn(
                "the config has training schedules, but step() was never called: they stay at their first step",
                UnusedScheduleWarning,
                stacklevel=4,
            )

    def enable_fake_palettize(self, module: nn.Module | None = None) -> None:
        """Use palettized weights in the prepared model or in a submodule of it."""
        for each in placed(self.prepared_model if module is None else module, FakePalettized):
            each.form.enabled = True

    def disable_fake_palettize(self, module: nn.Module | None = None) -> None:
        """Use float weights in the prepared model or in a submodule of it."""
        for each in placed(self.prepared_model if module is None else module, FakePalettized):
            each.form.enabled = False

    def _cluster_again(self, places: Sequence[Placed[FakePalettized]]) -> None:
        """Cluster these weights again with the last measured importances."""
        first = once(places)  # the first place of tied parameters, whose name the sensitivities use
        jobs = (
            Job.of(
                each.name,
                each.parameter,
                each.form.spec,
                each.form.op_type,
                self._seed,
                self._sensitivities,
                each.form.mask(each.module),
                each.form.vectors,
            )
            for each in first
        )
        for each, found in zip(first, clustered(jobs, self._num_workers, None), strict=True):
            assert isinstance(found, PalettizedWeight)
            each.form.replace(each.module, found)


def _detect_zeros(weight: PlannedWeight, state_dict: Mapping[str, Tensor] | None) -> None:
    """Treat a weight with many zeros as pruned, if its spec says so; a state dict tells whether it was."""
    if weight.spec.sparsity_detection_threshold is None or _mask_of(weight) is not None:
        return
    if state_dict is None:
        mask = detected_mask(weight.parameter, weight.spec)
    else:
        mask = state_dict.get(f"{weight.name}_{MASK}")
        mask = None if mask is None else mask.detach().clone()
    for site in weight.places if mask is not None else ():
        site.module.register_buffer(f"{site.name}_{MASK}", mask)
        remember_pruned(site.module, site.name)


def _mask_of(weight: PlannedWeight) -> Tensor | None:
    """Return the mask of a pruned weight, or None."""
    return mask_beside(weight.places[0].module, weight.places[0].name)


def _check_pruned(planned: Sequence[PlannedWeight]) -> None:
    """Reject LUT training of pruned weights, since their zero entry must not change.

    Raises:
        PalettizationError: naming the weights.
    """
    moving = [
        weight.name
        for weight in planned
        if isinstance(weight.spec.training_strategy_spec, TableTrainingSpec) and _mask_of(weight) is not None
    ]
    if moving:
        raise PalettizationError(
            f"{', '.join(moving)}: pruned weights, whose zero entry must not be trained; training_strategy_spec "
            "is TableTrainingSpec, accepted: DefaultTrainingSpec, StraightThroughTrainingSpec"
        )
