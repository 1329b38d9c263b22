"""Base class of compressors: model, config, life cycle and the count of training steps."""

from __future__ import annotations

import copy
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from graphpress.copying import copy_of, uncompiled, unwrapped
from graphpress.export_backend import ExportBackend
from graphpress.ir.errors import GraphpressError
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.model_checks import PREPARED, check_model
from graphpress.passes.config import CompressionConfig, SkippedWeight, warn_of_skipped
from graphpress.programs import Model, arguments_of, module_of

_STEPS = "_training_steps"


class UnusedScheduleWarning(UserWarning):
    """A config has schedules, but `step()` was never called."""


def count_from_zero(prepared: nn.Module) -> None:
    """Register the counter of training steps as a buffer of `prepared`, which its `state_dict` includes."""
    prepared.register_buffer(_STEPS, torch.zeros((), dtype=torch.long))


def steps_of(prepared: nn.Module) -> int:
    """Return the number of training steps of `prepared`."""
    return int(prepared.get_buffer(_STEPS))


def count_step(prepared: nn.Module) -> int:
    """Count one training step and return the number of steps."""
    prepared.get_buffer(_STEPS).add_(1)
    return steps_of(prepared)


def forget_preparation(finalized: nn.Module) -> None:
    """Remove what marks a prepared model, such as the counter of training steps, from a copy that is finalized."""
    finalized._buffers.pop(_STEPS, None)
    vars(finalized).pop(PREPARED, None)


C = TypeVar("C", bound=CompressionConfig)


class LifeCycleError(GraphpressError, RuntimeError):
    """Methods of a compressor were called in the wrong order."""


_in_place = False


def set_in_place_by_default(in_place: bool) -> None:
    """Set whether ``prepare(copy=None)`` compresses the user's model itself, in this process.

    For scripts that go on with the model that they passed. Graph mode creates a new model in any case.
    """
    global _in_place
    _in_place = in_place


def copies(copy: bool | None) -> bool:
    """Return whether to copy the user's model: `copy`, or the default of the process for None."""
    return not _in_place if copy is None else copy


class StateDictError(GraphpressError, RuntimeError):
    """A state dict has other entries than the prepared model."""


class ArgumentTypeError(GraphpressError, TypeError):
    """A model, config or other argument has the wrong type."""


class Compressor(ABC, Generic[C]):
    """Base of compressors: call ``prepare`` once, then calibrate or train, then ``finalize``, repeatedly if needed.

    Args:
        model: a module, or an exported program. It is not changed, and several compressors may prepare it.
        config: the config, which is copied; None is the technique's default.

    Raises:
        ArgumentTypeError: if `model` is neither or `config` not a config of this technique.
    """

    config_class: ClassVar[type[CompressionConfig]]

    def __init__(self, model: Model, config: C | None = None):
        if not isinstance(model, nn.Module | ExportedProgram):
            raise ArgumentTypeError(
                f"{type(self).__name__} takes a torch.nn.Module or an ExportedProgram, not a {type(model).__name__}"
            )
        if config is not None and not isinstance(config, self.config_class):
            raise ArgumentTypeError(
                f"{type(self).__name__} takes a {self.config_class.__name__} or None, not a {type(config).__name__}"
            )
        self._model: Model = unwrapped(model) if isinstance(model, nn.Module) else model
        self._config = cast(C, self.config_class()) if config is None else copy.deepcopy(config)
        self._prepared: nn.Module | None = None
        self._mark = uuid.uuid4().hex
        self._open: dict[str, nn.Module] = {}
        self._skipped: tuple[SkippedWeight, ...] = ()

    @property
    def model(self) -> Model:
        """The original model, without the wrapper of `torch.compile`."""
        return self._model

    @property
    def config(self) -> C:
        """The config."""
        return self._config

    @property
    def calibrates_on_data(self) -> bool:
        """True if `calibration_mode()` needs only runs of the prepared model, without a loss."""
        return True

    @property
    def is_prepared(self) -> bool:
        """True once `prepare` has returned."""
        return self._prepared is not None

    @property
    def skipped_weights(self) -> tuple[SkippedWeight, ...]:
        """The weights that the config selects but `prepare` did not compress, with reasons."""
        return self._skipped

    @property
    def prepared_model(self) -> nn.Module:
        """The result of `prepare`.

        Raises:
            LifeCycleError: before `prepare`.
        """
        if self._prepared is None:
            raise LifeCycleError(f"this {type(self).__name__} has not prepared a model yet: call prepare(...) first")
        return self._prepared

    def _arguments(self, example_inputs: Any) -> Arguments:
        """Return the example arguments, those of an exported program by default."""
        if isinstance(self._model, ExportedProgram):
            return arguments_of(self._model, example_inputs)
        return Arguments.of(example_inputs)

    def _working_module(self, error: type[GraphpressError], instead: str, *, copy: bool | None) -> nn.Module:
        """Return the module to compress: a copy of the model, the model itself, or a program as a module; see `copies`.

        Raises:
            GraphpressError: of the class `error`, if the model cannot be copied; the message ends with `instead`.
        """
        if isinstance(self._model, ExportedProgram):
            return module_of(self._model, copy=copies(copy))
        return copy_of(self._model, error, instead) if copies(copy) else uncompiled(self._model)

    @abstractmethod
    def finalize(
        self, model: nn.Module | None = None, backend: ExportBackend = ExportBackend.CoreAI, *, mmap_dir: str | None
    ) -> nn.Module:
        """Return the compressed model in the form that `backend` converts; the prepared model remains usable.

        Raises:
            LifeCycleError: before `prepare`, or for a `model` that this compressor did not prepare.
        """

    def _check_may_prepare(self) -> None:
        """Check that nothing is prepared yet, and that the model has code and data."""
        if self._prepared is not None:
            raise LifeCycleError(
                f"this {type(self).__name__} has already prepared its model; create another {type(self).__name__} to "
                "prepare it again (the model itself is unchanged)"
            )
        check_model(self._model)

    def _report_skipped(self, skipped: Iterable[SkippedWeight], category: type[Warning]) -> None:
        """Store the records of skipped weights, and warn the caller of `prepare` about them."""
        self._skipped = tuple(skipped)
        warn_of_skipped(self._skipped, category, stacklevel=3)

    def _finish_preparing(self, prepared: nn.Module) -> nn.Module:
        """Store `prepared` as the result of `prepare`; a failed `prepare` can be retried."""
        setattr(prepared, PREPARED, self._mark)
        self._prepared = prepared
        return prepared

    def _prepared_or(self, model: nn.Module | None) -> nn.Module:
        """Return `model` if it is the prepared model or a copy of it, and the prepared model for None."""
        prepared = self.prepared_model
        if isinstance(model, nn.Module):
            model = unwrapped(model)
        if model is None or model is prepared:
            return prepared
        if getattr(model, PREPARED, None) == self._mark:
            return model
        what = "the model before preparation" if model is self._model else f"a {type(model).__name__}"
        raise LifeCycleError(
            f"{what} was not prepared by this {type(self).__name__}; pass the result of prepare(...), a copy of it, "
            "or nothing"
        )

    def _finalizable(self, model: nn.Module | None) -> nn.Module:
        """Return `_prepared_or(model)`, after checking that it has data."""
        prepared = self._prepared_or(model)
        check_model(prepared)
        return prepared

    @contextmanager
    def _entered(self, mode: str, model: nn.Module | None = None) -> Iterator[nn.Module]:
        """Enter the context `mode` of the prepared model or of `model`, a copy of it; it cannot be nested."""
        prepared = self._prepared_or(model)
        if mode in self._open:
            raise LifeCycleError(f"{mode} of this {type(self).__name__} is already open; leave it first")
        self._open[mode] = prepared
        try:
            yield prepared
        finally:
            del self._open[mode]

    @property
    def _in_training(self) -> nn.Module:
        """The model that `training_mode` was entered for, or the prepared model outside."""
        return self._open.get("training_mode", self.prepared_model)


def load_prepared(prepared: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load the numbers of a prepared model into `prepared`, which has its structure.

    Raises:
        StateDictError: naming the entries that are missing, superfluous, or of another shape.
    """
    problems = []
    try:
        missing, unexpected = prepared.load_state_dict(state_dict, strict=False)
        problems += [f"missing: {', '.join(missing)}"] if missing else []
        problems += [f"superfluous: {', '.join(unexpected)}"] if unexpected else []
    except (RuntimeError, TypeError, AttributeError) as error:
        problems += [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    if problems:
        raise StateDictError(
            f"State dict does not match the prepared model; it must be of a model that a compressor with the same "
            f"config has prepared. {'; '.join(problems)}"
        )


@contextmanager
def mode_restored(model: nn.Module) -> Iterator[None]:
    """Restore the training mode of every module on exit, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
