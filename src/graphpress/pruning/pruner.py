"""The pruner: weight elements or channels of least magnitude become zero."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphpress.backends.coreml.metadata import PRUNING_THRESHOLD
from graphpress.compressor import (
    Compressor,
    LifeCycleError,
    UnusedScheduleWarning,
    count_from_zero,
    count_step,
    load_prepared,
    steps_of,
)
from graphpress.eager.observing import Inputs, example_run
from graphpress.export_backend import ExportBackend
from graphpress.modules.coreai_form import stored_for_coreai
from graphpress.modules.dense_form import stored_dense
from graphpress.modules.metadata_form import store_described
from graphpress.modules.planning import plan_by_modules
from graphpress.modules.sites import SUPPORTED_MODULES
from graphpress.modules.surgery import copied, placed
from graphpress.passes.config import MagnitudePrunerConfig
from graphpress.passes.weights import PruningError, PruningWarning
from graphpress.programs import Model
from graphpress.pruning.forms import FakePruned, install_pruned
from graphpress.pruning.training import PruningTraining


class MagnitudePruner(Compressor[MagnitudePrunerConfig]):
    """Prunes the weights of a model: ``prepare`` adds masks, ``finalize`` stores the kept elements.

    Args:
        model: a module, or an exported program; it is not changed unless ``prepare(copy=False)`` is called.
        config: the config; None prunes half of the elements of every weight.
    """

    config_class: ClassVar[type[MagnitudePrunerConfig]] = MagnitudePrunerConfig

    def __init__(self, model: Model, config: MagnitudePrunerConfig | None = None):
        super().__init__(model, config)
        self._training: PruningTraining | None = None
        self._trained = False

    @staticmethod
    def supported_modules() -> tuple[type[nn.Module], ...]:
        """Return the module classes whose weights are pruned by default; configs can name other parameters."""
        return SUPPORTED_MODULES

    def prepare(
        self,
        example_inputs: Inputs = None,
        copy: bool | None = None,
        *,
        state_dict: Mapping[str, Tensor] | None = None,
    ) -> nn.Module:
        """Choose the kept elements of each weight and return a model with the pruned weights, at target sparsity.

        Args:
            example_inputs: a tensor, a tuple of arguments, or a dictionary of them by name. The model runs once on them
                in eval mode, to record which ops read its parameters; None infers the ops from the module types. An
                exported program has its own by default.
            copy: False prunes the model itself, which saves the memory of a copy; None copies it.
            state_dict: of a model that was prepared with the same config. Its numbers are loaded, and no masks are
                chosen; None starts afresh.

        Raises:
            LifeCycleError: if this pruner, or another one, has already prepared the model.
            UnmatchedConfigError: if entries of the config match nothing.
            PruningError: for weights that cannot be pruned, and for a model that cannot run.
            StateDictError: if `state_dict` has other entries than the prepared model.
        """
        self._check_may_prepare()
        if isinstance(self.model, nn.Module) and placed(self.model, FakePruned):
            raise LifeCycleError(
                "the model was prepared by a MagnitudePruner; pass its finalized model, or the original"
            )
        instead = "prepare(copy=False) prunes the model itself"
        model = self._working_module(PruningError, instead, copy=copy)
        run = example_run(self.model, model, example_inputs, PruningError)
        plan = plan_by_modules(model, self.config, run)
        for weight in plan.weights:
            install_pruned(weight, None if state_dict is None else torch.ones_like(weight.parameter, dtype=torch.bool))
        self._report_skipped(plan.skipped, PruningWarning)
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
        """Return a model that holds the pruned weights as `backend` stores them; the prepared model is not changed.

        Weights whose mask would take more space than it saves remain floats with zeros.

        Args:
            model: the prepared model or a copy of it; None is the prepared model.
            backend: for Core AI, weights become kept elements and masks that `torch.export` and the converter preserve;
                for Core ML, floats with the metadata buffers that coremltools reads; for torch, floats with zeros.
            mmap_dir: a folder for memory-mapped files of these tensors; None keeps them in memory.

        Raises:
            LifeCycleError: before `prepare`, or for a model that this pruner did not prepare.
            ModelError: if its tensors have no data, as on the meta device.
        """
        prepared = self._finalizable(model)
        backend = ExportBackend.of(backend)
        if backend is ExportBackend.CoreAI:
            return stored_for_coreai(prepared, FakePruned, mmap_dir)
        if backend is ExportBackend.Torch:
            return stored_dense(prepared, FakePruned, mmap_dir)
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
    def training_mode(self, model: nn.Module | None = None) -> Iterator[PruningTraining]:
        """Train with pruned weights, whose sparsities follow their schedules; zeros get no gradient.

        `model` is the prepared model or a copy of it; None is the prepared model.

        Call ``step()`` on the yielded object or on the pruner after each optimizer step or each epoch, in the unit of
        the schedules. On exit, also after an exception, the model is in eval mode and every weight has its target
        sparsity.

        Raises:
            LifeCycleError: before `prepare`, and if nested.
        """
        with self._entered("training_mode", model) as prepared:
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
        """Count one training step, and set sparsities by their schedules.

        The count and the masks are in the `state_dict` of the prepared model, so training can be resumed.

        Raises:
            LifeCycleError: before `prepare`.
        """
        if self._training is None:
            count_step(self.prepared_model)
        else:
            self._training.step()

    def enable_fake_prune(self, module: nn.Module | None = None) -> None:
        """Use pruned weights in the prepared model or in a submodule of it."""
        for each in placed(self.prepared_model if module is None else module, FakePruned):
            each.form.enabled = True

    def disable_fake_prune(self, module: nn.Module | None = None) -> None:
        """Use float weights in the prepared model or in a submodule of it."""
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
