"""The pruner: the smallest elements of weights, or their smallest channels, become zeros."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import ClassVar

from torch import nn

from graphpress.backends.coreml.metadata import PRUNING_THRESHOLD
from graphpress.compressor import (
    Compressor,
    LifeCycleError,
    UnusedScheduleWarning,
    copy_of,
    count_from_zero,
    count_step,
    steps_of,
)
from graphpress.eager.observing import Inputs, run_model
from graphpress.export_backend import ExportBackend
from graphpress.modules.coreai_form import stored_for_coreai
from graphpress.modules.metadata_form import store_described
from graphpress.modules.planning import plan_by_modules
from graphpress.modules.sites import SUPPORTED_MODULES
from graphpress.modules.surgery import copied, placed
from graphpress.passes.config import MagnitudePrunerConfig
from graphpress.passes.weights import PruningError, PruningWarning
from graphpress.pruning.forms import FakePruned, install_pruned
from graphpress.pruning.training import PruningTraining


class MagnitudePruner(Compressor[MagnitudePrunerConfig]):
    """Prunes the weights of a model: ``prepare`` puts masks before them, ``finalize`` stores what is left.

    Args:
        model: any module; it is never changed.
        config: which weights and how; None is half of the elements of every weight.
    """

    config_class: ClassVar[type[MagnitudePrunerConfig]] = MagnitudePrunerConfig

    def __init__(self, model: nn.Module, config: MagnitudePrunerConfig | None = None):
        super().__init__(model, config)
        self._training: PruningTraining | None = None
        self._trained = False

    @staticmethod
    def supported_modules() -> tuple[type[nn.Module], ...]:
        """Module classes whose weights are pruned by default. Parameters of others can be named in the config."""
        return SUPPORTED_MODULES

    def prepare(self, example_inputs: Inputs = None, copy: bool = True) -> nn.Module:
        """Choose what stays of each weight; what is returned computes with the pruned ones, at their target sparsity.

        Args:
            example_inputs: a tensor, a tuple of arguments, or a dictionary of them by name. The model runs once on
                them, in eval mode, to see which ops read which parameters; None leaves that to the kinds of modules.
            copy: False prunes the model itself, which saves the memory of a copy.

        Raises:
            LifeCycleError: when this pruner, or another one, has prepared the model already.
            UnmatchedConfigError: when the config names what the model does not have.
            PruningError: for weights that cannot be pruned, and for a model that cannot run.
        """
        self._check_unprepared()
        if placed(self.model, FakePruned):
            raise LifeCycleError(
                "the model is what a MagnitudePruner prepared; pass the one it finalized, or the original"
            )
        instead = "prepare(copy=False) prunes the model itself"
        model = copy_of(self.model, PruningError, instead) if copy else self.model
        run = None if example_inputs is None else lambda: run_model(model, example_inputs, PruningError)
        plan = plan_by_modules(model, self.config, run)
        for weight in plan.weights:
            install_pruned(weight)
        self._report_skipped(plan.skipped, PruningWarning)
        count_from_zero(model)
        return self._finish_preparing(model)

    def finalize(
        self,
        model: nn.Module | None = None,
        backend: ExportBackend | str = ExportBackend.CoreAI,
        *,
        mmap_dir: str | PathLike[str] | None = None,
    ) -> nn.Module:
        """A model that holds the pruned weights as `backend` stores them; the prepared model stays as it is.

        Weights of which a mask would take more space than it saves stay floats with zeros.

        Args:
            model: the prepared model or a copy of it; None is the prepared model.
            backend: for Core AI the weights become kept elements and masks that `torch.export` and the converter keep;
                for Core ML the buffers that coremltools reads.
            mmap_dir: a folder in which they are written as they are made, and from which they are mapped.

        Raises:
            LifeCycleError: before `prepare`, or for a model that this pruner did not prepare.
        """
        prepared = self._prepared_or(model)
        if ExportBackend.of(backend) is ExportBackend.CoreAI:
            return stored_for_coreai(prepared, FakePruned, mmap_dir)
        finalized, places = copied(prepared, FakePruned)
        left = store_described(finalized, places, mmap_dir)
        if left:
            warnings.warn(
                f"coremltools' metadata makes zeros of kept elements up to {PRUNING_THRESHOLD:.2g}, which these "
                "weights have; they are stored dense. graphpress.backends.coreml.convert of the model finalized for "
                f"Core AI stores them sparse: {', '.join(left)}",
                PruningWarning,
                stacklevel=2,
            )
        return finalized

    @contextmanager
    def training_mode(self) -> Iterator[PruningTraining]:
        """Train with pruned weights, each as sparse as its schedule says; zeros get no gradient.

        Call ``step()`` on what is yielded, or on the pruner, after each step of the optimizer or each epoch, whichever
        the schedules count. On exit, after an exception too, the model is in evaluation mode and every weight has its
        target sparsity.

        Raises:
            LifeCycleError: before `prepare`, and inside itself.
        """
        with self._entered("training_mode") as prepared:
            self._warn_about_schedules(prepared)
            prepared.train()
            self._training = PruningTraining(prepared)
            try:
                yield self._training
            finally:
                training, self._training, self._trained = self._training, None, True
                prepared.eval()
                training.finish()

    def step(self) -> None:
        """Count one step of training, and let sparsities follow their schedules.

        The count is in the `state_dict` of the prepared model, as are the masks, so training resumes where it was
        saved.

        Raises:
            LifeCycleError: before `prepare`.
        """
        if self._training is None:
            count_step(self.prepared_model)
        else:
            self._training.step()

    def enable_fake_prune(self, module: nn.Module | None = None) -> None:
        """Let the prepared model, or a submodule of it, compute with pruned weights."""
        for each in placed(self.prepared_model if module is None else module, FakePruned):
            each.form.enabled = True

    def disable_fake_prune(self, module: nn.Module | None = None) -> None:
        """Let the prepared model, or a submodule of it, compute with float weights."""
        for each in placed(self.prepared_model if module is None else module, FakePruned):
            each.form.enabled = False

    def _warn_about_schedules(self, prepared: nn.Module) -> None:
        scheduled = any(each.form.schedule is not None for each in placed(prepared, FakePruned))
        if self._trained and scheduled and not steps_of(prepared):
            warnings.warn(
                "the config has sparsity schedules, but step() was never called: they stay at their first step",
                UnusedScheduleWarning,
                stacklevel=4,
            )
