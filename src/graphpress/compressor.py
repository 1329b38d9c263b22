"""What all compressors share: a model, a config, a life cycle, and a counter of training steps."""

from __future__ import annotations

import copy
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Generic, TypeVar, cast

import torch
from torch import nn

from graphpress.export_backend import ExportBackend
from graphpress.ir.errors import GraphpressError
from graphpress.passes.config import CompressionConfig, SkippedWeight, warn_of_skipped

_STEPS = "_training_steps"


class UnusedScheduleWarning(UserWarning):
    """A config has schedules, but nobody counts the steps of training."""


def count_from_zero(prepared: nn.Module) -> None:
    """Give `prepared` the counter of its training steps: a buffer, so that its `state_dict` carries it."""
    prepared.register_buffer(_STEPS, torch.zeros((), dtype=torch.long))


def steps_of(prepared: nn.Module) -> int:
    """How many steps of training `prepared` has counted."""
    return int(prepared.get_buffer(_STEPS))


def count_step(prepared: nn.Module) -> int:
    """Count one step; the number of steps is returned."""
    prepared.get_buffer(_STEPS).add_(1)
    return steps_of(prepared)


def stop_counting(finalized: nn.Module) -> None:
    """Take the counter off a module that is not trained any more."""
    finalized._buffers.pop(_STEPS, None)


C = TypeVar("C", bound=CompressionConfig)

# Plain text on the prepared module: copies of the module, and what pickle makes of it, carry it too.
_MARK = "_graphpress_preparation"


class LifeCycleError(GraphpressError, RuntimeError):
    """A compressor used out of order: the message says what has to come first."""


class ArgumentTypeError(GraphpressError, TypeError):
    """A compressor was given something that is no model, or a config of another technique."""


class Compressor(ABC, Generic[C]):
    """Base of the compressors: ``prepare`` once, then calibrate and train, and ``finalize`` as often as needed.

    Args:
        model: the model. It is never changed, and any number of compressors may prepare it.
        config: what to compress and how; None is the technique's default. It is copied.

    Raises:
        ArgumentTypeError: when `model` is no module or `config` no config of this technique.
    """

    config_class: ClassVar[type[CompressionConfig]]

    def __init__(self, model: nn.Module, config: C | None = None):
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"{type(self).__name__} takes a torch.nn.Module, not a {type(model).__name__}")
        if config is not None and not isinstance(config, self.config_class):
            raise ArgumentTypeError(
                f"{type(self).__name__} takes a {self.config_class.__name__} or None, not a {type(config).__name__}"
            )
        self._model = model
        self._config = cast(C, self.config_class()) if config is None else copy.deepcopy(config)
        self._prepared: nn.Module | None = None
        self._mark = uuid.uuid4().hex
        self._open: list[str] = []
        self._skipped: tuple[SkippedWeight, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The model as the user gave it."""
        return self._model

    @property
    def config(self) -> C:
        """What is compressed and how."""
        return self._config

    @property
    def calibrates_on_data(self) -> bool:
        """True where `calibration_mode()` learns from runs of the prepared model alone, without a loss."""
        return True

    @property
    def is_prepared(self) -> bool:
        """True once `prepare` has returned."""
        return self._prepared is not None

    @property
    def skipped_weights(self) -> tuple[SkippedWeight, ...]:
        """The weights that the config means and that `prepare` did not compress, with the reasons."""
        return self._skipped

    @property
    def prepared_model(self) -> nn.Module:
        """What `prepare` returned.

        Raises:
            LifeCycleError: before `prepare`.
        """
        if self._prepared is None:
            raise LifeCycleError(f"this {type(self).__name__} has prepared nothing yet: call prepare(...) first")
        return self._prepared

    @abstractmethod
    def finalize(
        self, model: nn.Module | None = None, backend: ExportBackend = ExportBackend.CoreAI, *, mmap_dir: str | None
    ) -> nn.Module:
        """The compressed model in the form `backend` converts. The prepared model stays usable.

        Raises:
            LifeCycleError: before `prepare`, or for a `model` that this compressor did not prepare.
        """

    def _check_unprepared(self) -> None:
        if self._prepared is not None:
            raise LifeCycleError(
                f"this {type(self).__name__} has prepared its model already; make another {type(self).__name__} to "
                "prepare it again (the model itself is unchanged)"
            )

    def _report_skipped(self, skipped: Iterable[SkippedWeight], category: type[Warning]) -> None:
        """Keep the records of what `prepare` skips, and warn its caller about them."""
        self._skipped = tuple(skipped)
        warn_of_skipped(self._skipped, category, stacklevel=3)

    def _finish_preparing(self, prepared: nn.Module) -> nn.Module:
        """Keep `prepared` as the result of `prepare`. A failed `prepare` does not come here, and may be tried again."""
        setattr(prepared, _MARK, self._mark)
        self._prepared = prepared
        return prepared

    def _prepared_or(self, model: nn.Module | None) -> nn.Module:
        """`model` if it is the prepared model or a copy of it; the prepared model for None."""
        prepared = self.prepared_model
        if model is None or model is prepared:
            return prepared
        if getattr(model, _MARK, None) == self._mark:
            return model
        what = "the model before preparation" if model is self._model else f"a {type(model).__name__}"
        raise LifeCycleError(
            f"{what} is not what this {type(self).__name__} prepared; pass what prepare(...) returned, a copy of it, "
            "or nothing"
        )

    @contextmanager
    def _entered(self, mode: str) -> Iterator[nn.Module]:
        """Be inside the context `mode` of the prepared model; refuses to be inside it twice."""
        prepared = self.prepared_model
        if mode in self._open:
            raise LifeCycleError(f"{mode} of this {type(self).__name__} is open already; leave it first")
        self._open.append(mode)
        try:
            yield prepared
        finally:
            self._open.remove(mode)


def copy_of(model: nn.Module, error: type[GraphpressError], instead: str = "") -> nn.Module:
    """A copy of `model`.

    Raises:
        GraphpressError: of the class `error`, when it cannot be copied; the message says what to do `instead`.
    """
    try:
        return copy.deepcopy(model)
    except Exception as reason:
        hint = f"; {instead}" if instead else ""
        raise error(f"{type(model).__name__} cannot be copied ({type(reason).__name__}: {reason}){hint}") from reason


@contextmanager
def mode_restored(model: nn.Module) -> Iterator[None]:
    """Put every module back into the mode it was in, after an exception too."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
