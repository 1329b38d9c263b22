"""The palettizer: weights become indices into small tables found by k-means."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from typing import Any, ClassVar, overload

from torch import Tensor, nn

from graphpress.compressor import (
    ArgumentTypeError,
    Compressor,
    LifeCycleError,
    UnusedScheduleWarning,
    copy_of,
    count_from_zero,
    count_step,
    mode_restored,
    steps_of,
)
from graphpress.eager.observing import Inputs, run_model
from graphpress.export_backend import ExportBackend
from graphpress.modules.coreai_form import stored_for_coreai
from graphpress.modules.masks import mask_beside
from graphpress.modules.metadata_form import store_described
from graphpress.modules.planning import PlannedWeight, plan_by_modules
from graphpress.modules.restoring import with_masked_floats
from graphpress.modules.sites import SUPPORTED_MODULES
from graphpress.modules.surgery import Placed, copied, once, placed
from graphpress.palettization.calibration import ActivationCalibration, Sensitivities, SensitivityCalibration
from graphpress.palettization.forms import FakePalettized, install_palettized
from graphpress.palettization.jobs import Job, clustered, sorted_out
from graphpress.palettization.learning import trained_parameters
from graphpress.palettization.training import PalettizationTraining
from graphpress.passes.config import KMeansPalettizerConfig, TableTrainingSpec
from graphpress.passes.weights import PalettizationError, PalettizationWarning, PalettizedWeight


class KMeansPalettizer(Compressor[KMeansPalettizerConfig]):
    """Palettizes the weights of a model: ``prepare`` clusters them, ``finalize`` stores them as indices and tables.

    Args:
        model: any module; it is never changed.
        config: which weights and how; None is 4 bits per weight tensor, for every weight.
    """

    config_class: ClassVar[type[KMeansPalettizerConfig]] = KMeansPalettizerConfig

    def __init__(self, model: nn.Module, config: KMeansPalettizerConfig | None = None):
        super().__init__(model, config)
        self._seed = 0
        self._num_workers = 1
        self._sensitivities: Sensitivities | None = None
        self._training: PalettizationTraining | None = None
        self._trained = False

    @staticmethod
    def supported_modules() -> tuple[type[nn.Module], ...]:
        """Module classes whose weights are palettized by default. Parameters of others can be named in the config."""
        return SUPPORTED_MODULES

    def prepare(
        self,
        example_inputs: Inputs = None,
        sensitivity_path: str | PathLike[str] | None = None,
        num_workers: int = 1,
        executor: Executor | None = None,
        seed: int = 0,
        copy: bool = True,
        leave_indivisible: bool | None = None,
    ) -> nn.Module:
        """Cluster the weights; what is returned computes with the palettized ones.

        The result depends on model, config, sensitivities and seed only, not on the number of workers.

        Args:
            example_inputs: a tensor, a tuple of arguments, or a dictionary of them by name. The model runs once on
                them, in eval mode, to see which ops read which parameters; None leaves that to the kinds of modules.
            sensitivity_path: a file that `save_sensitivities` wrote: errors of weights then count by their importance.
            num_workers: how many weights are clustered at a time, in threads.
            executor: where to cluster instead; any `concurrent.futures.Executor`, of processes or of a cluster. A
                worker that is killed costs a retry and a warning.
            seed: of vector clustering.
            copy: False palettizes the model itself, which saves the memory of a copy.
            leave_indivisible: what to do with weights that groups or vectors do not divide. True skips them, with a
                warning; False makes them an error; None makes them an error only where the config means them in
                particular, or where nothing else is palettized.

        Raises:
            LifeCycleError: when this palettizer, or another one, has prepared the model already.
            UnmatchedConfigError: when the config names what the model does not have.
            PalettizationError: for weights that cannot be palettized, and for a model that cannot run.
            WorkerError: when workers are lost again and again.
        """
        self._check_unprepared()
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
            raise ArgumentTypeError(f"num_workers is {num_workers!r}; it must be an integer of at least 1")
        if placed(self.model, FakePalettized):
            raise LifeCycleError(
                "the model is what a KMeansPalettizer prepared; pass the one it finalized, or the original"
            )
        sensitivities = None if sensitivity_path is None else Sensitivities.load(sensitivity_path)
        instead = "prepare(copy=False) palettizes the model itself"
        model = with_masked_floats(copy_of(self.model, PalettizationError, instead) if copy else self.model)
        run = None if example_inputs is None else lambda: run_model(model, example_inputs, PalettizationError)
        plan = plan_by_modules(model, self.config, run)
        _check_pruned(plan.weights)
        jobs = (
            Job.of(each.name, each.parameter, each.spec, each.op_type, seed, sensitivities, _mask_of(each))
            for each in plan.weights
        )
        found = sorted_out(plan.weights, [*clustered(jobs, num_workers, executor)], leave_indivisible)
        for weight, palettized in found.palettized:
            install_palettized(weight, palettized)
        self._report_skipped((*plan.skipped, *found.skipped), PalettizationWarning)
        self._seed, self._num_workers, self._sensitivities = seed, num_workers, sensitivities
        count_from_zero(model)
        return self._finish_preparing(model)

    def finalize(
        self,
        model: nn.Module | None = None,
        backend: ExportBackend | str = ExportBackend.CoreAI,
        *,
        mmap_dir: str | PathLike[str] | None = None,
    ) -> nn.Module:
        """A model that holds the palettized weights as `backend` stores them; the prepared model stays as it is.

        Args:
            model: the prepared model or a copy of it; None is the prepared model.
            backend: for Core AI the weights become indices and tables that `torch.export` and the converter keep;
                for Core ML the buffers that coremltools reads.
            mmap_dir: a folder in which indices and tables are written as they are made, and from which they are mapped.

        Raises:
            LifeCycleError: before `prepare`, or for a model that this palettizer did not prepare.
            PalettizationError: for weights that the backend cannot store.
        """
        prepared = self._prepared_or(model)
        if self._sensitivities is None and self.calibrates_on_data:
            warnings.warn(
                "activation_aware had no data: all elements of weights count alike; run data through the prepared "
                "model inside calibration_mode(), or give prepare a sensitivity_path",
                PalettizationWarning,
                stacklevel=2,
            )
        if ExportBackend.of(backend) is ExportBackend.CoreAI:
            return stored_for_coreai(prepared, FakePalettized, mmap_dir)
        finalized, places = copied(prepared, FakePalettized)
        refused = store_described(finalized, places, mmap_dir)
        if refused:
            lines = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
            raise PalettizationError(
                f"coremltools' compression metadata cannot describe {len(refused)} weights:{lines}"
            )
        return finalized

    @overload
    def calibration_mode(
        self, loss_fn: Callable[[Any, Any], Tensor], sensitivity_path: str | PathLike[str] | None = None
    ) -> AbstractContextManager[SensitivityCalibration]: ...

    @overload
    def calibration_mode(
        self, loss_fn: None = None, sensitivity_path: str | PathLike[str] | None = None
    ) -> AbstractContextManager[ActivationCalibration]: ...

    @contextmanager
    def calibration_mode(
        self,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        sensitivity_path: str | PathLike[str] | None = None,
    ) -> Iterator[Any]:
        """Measure how much each element of each weight matters, then cluster anew with that as importance.

        Inside, the model runs in eval mode with its float weights. With a loss, call ``step(output, target)`` on what
        is yielded for each batch: elements count by the mean of their squared gradients (arXiv 2306.07629). Without
        one, run the prepared model on each batch, with or without gradients: elements of weights whose spec is
        `activation_aware` count by the second moments of the inputs that they multiply, all others alike. On exit,
        unless by an exception, tables are found again by weighted k-means.

        Args:
            loss_fn: maps output and target to a loss; None asks for second moments of inputs.
            sensitivity_path: where to save the importances on exit, for `prepare`.

        Raises:
            LifeCycleError: before `prepare`, inside itself, and without a loss where no spec is `activation_aware`.
        """
        with self._entered("calibration_mode") as prepared, mode_restored(prepared):
            prepared.eval()
            calibration: SensitivityCalibration | ActivationCalibration
            if loss_fn is not None:
                calibration = SensitivityCalibration(prepared, loss_fn)
            elif self.calibrates_on_data:
                calibration = ActivationCalibration(prepared)
            else:
                raise LifeCycleError(
                    "calibration_mode has nothing to measure: pass loss_fn, from whose gradients it learns what "
                    "matters, or set activation_aware=True in a PalettizationSpec, for which data suffice"
                )
            with calibration.float_weights():
                yield calibration
        if not calibration.steps:
            wanted = "step(output, target)" if loss_fn is not None else "run of the prepared model"
            warnings.warn(
                f"calibration_mode saw no {wanted}: the tables stay as they were", PalettizationWarning, stacklevel=3
            )
            return
        self._sensitivities = calibration.sensitivities()
        self._cluster_again(placed(prepared, FakePalettized))
        if sensitivity_path is not None:
            self.save_sensitivities(sensitivity_path)

    @property
    def calibrates_on_data(self) -> bool:
        """True where `calibration_mode` takes data alone: where the spec of a weight is `activation_aware`.

        Raises:
            LifeCycleError: before `prepare`.
        """
        return any(each.form.spec.activation_aware for each in placed(self.prepared_model, FakePalettized))

    def save_sensitivities(self, path: str | PathLike[str]) -> None:
        """Write what the last `calibration_mode` measured, or `prepare` was given, to a file that `prepare` takes.

        Raises:
            LifeCycleError: when nothing was measured.
        """
        if self._sensitivities is None:
            raise LifeCycleError("no sensitivities were measured yet: run calibration_mode first")
        self._sensitivities.save(path)

    @contextmanager
    def training_mode(self) -> Iterator[PalettizationTraining]:
        """Train with palettized weights, each from the step on that its schedule says.

        What learns, beside the rest of the model, says `training_strategy_spec`: nothing of the palettized weights
        (`DefaultTrainingSpec`), the weights, whose indices follow them (`StraightThroughTrainingSpec`), or the entries
        of the tables and the scales of channels (`TableTrainingSpec`), which are parameters of the prepared model.
        Weights that their schedule does not palettize yet are float; when their turn comes they are clustered anew.

        Call ``step()`` on what is yielded, or on the palettizer, after each step of the optimizer or each epoch. On
        exit, after an exception too, the model is in evaluation mode with all weights palettized.

        Raises:
            LifeCycleError: before `prepare`, and inside itself.
        """
        with self._entered("training_mode") as prepared:
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
        """Count one step of training, and palettize the weights whose schedule says so.

        The count is in the `state_dict` of the prepared model, so training resumes where it was saved. Call it once per
        batch or once per epoch, whichever the schedules count.

        Raises:
            LifeCycleError: before `prepare`.
        """
        if self._training is None:
            count_step(self.prepared_model)
        else:
            self._training.step()

    def table_parameters(self) -> list[nn.Parameter]:
        """What a `TableTrainingSpec` trains: entries of tables and changes of scales; for an optimizer of their own.

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
        """Let the prepared model, or a submodule of it, compute with palettized weights."""
        for each in placed(self.prepared_model if module is None else module, FakePalettized):
            each.form.enabled = True

    def disable_fake_palettize(self, module: nn.Module | None = None) -> None:
        """Let the prepared model, or a submodule of it, compute with float weights."""
        for each in placed(self.prepared_model if module is None else module, FakePalettized):
            each.form.enabled = False

    def _cluster_again(self, places: Sequence[Placed[FakePalettized]]) -> None:
        """Find the tables of these weights anew, with what was measured last as importance."""
        first = once(places)  # of tied parameters, by whose name the sensitivities go
        jobs = (
            Job.of(
                each.name,
                each.parameter,
                each.form.spec,
                each.form.op_type,
                self._seed,
                self._sensitivities,
                each.form.mask(each.module),
            )
            for each in first
        )
        for each, found in zip(first, clustered(jobs, self._num_workers, None), strict=True):
            assert isinstance(found, PalettizedWeight)
            each.form.replace(each.module, found)


def _mask_of(weight: PlannedWeight) -> Tensor | None:
    """Where a pruned weight is kept; None for other weights."""
    return mask_beside(weight.places[0].module, weight.places[0].name)


def _check_pruned(planned: Sequence[PlannedWeight]) -> None:
    """Refuse to train tables of pruned weights, whose zeros would move.

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
            f"{', '.join(moving)}: pruned, and the zero in the table of a pruned weight stays; training_strategy_spec "
            "is TableTrainingSpec, accepted: DefaultTrainingSpec, StraightThroughTrainingSpec"
        )
