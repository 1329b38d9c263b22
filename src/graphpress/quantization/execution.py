"""What a quantizer does in one execution mode: the two implementations behind `Quantizer`."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from graphpress.export_backend import ExportBackend
from graphpress.passes.analysis.weight_readers import WholeWeightsWarning
from graphpress.passes.configs import QuantizerConfig


class Execution(ABC):
    """Base of the execution modes. One is made for each quantizer, and keeps what `finalize` needs from `prepare`.

    Calibration, training and the switches are the same in all modes, because they act on the `FakeQuantizeImplBase`
    modules that the prepared model holds as submodules.

    Args:
        config: what is quantized and how.
    """

    def __init__(self, config: QuantizerConfig):
        self.config = config

    @abstractmethod
    def prepare(
        self,
        model: nn.Module,
        example_inputs: Any,
        dynamic_shapes: Any,
        *,
        no_grad: bool,
        copy: bool,
        leave_indivisible: bool,
    ) -> nn.Module:
        """The prepared model, in eval mode, every quantizer a submodule. Arguments are those of `Quantizer.prepare`.

        The quantizers have observed nothing yet.
        """

    def calibrating(self, prepared: nn.Module) -> AbstractContextManager[None]:
        """A context around calibration: what the mode learns from the data beside ranges, it learns on leaving."""
        return nullcontext()

    @abstractmethod
    def finalize(self, prepared: nn.Module, backend: ExportBackend, mmap_dir: str | None) -> nn.Module:
        """The form of `prepared`, which stays as it is, that `backend` converts."""


def warn_of_whole_weights(left: Sequence[str]) -> None:
    """Name the weights that a config speaks of and that are left as they are, each with the reason."""
    if left:
        lines = "".join(f"\n  {line}" for line in left)
        warnings.warn(f"{len(left)} weights are left whole:{lines}", WholeWeightsWarning, stacklevel=5)
