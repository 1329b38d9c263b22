"""Metrics of compressed models: callables from a module to a number; those defined here compare outputs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphpress.compressor import mode_restored
from graphpress.ir.errors import GraphpressError
from graphpress.ir.tensors import tensor_digest


class SearchError(GraphpressError, ValueError):
    """A search cannot be run with these arguments."""


class SearchWarning(UserWarning):
    """A candidate does not fit its layer, or a compressor issued a warning during a search."""


Metric: TypeAlias = Callable[[nn.Module], float]
"""Evaluates a model. A true attribute `higher_is_better` reverses the order; `name` identifies the metric."""

Compare: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], float]
"""Compares the floating output tensors of the float model with those of another model, in order."""


@frozen(eq=False)
class OutputMetric:
    """The mean over inputs of a comparison of a model's outputs with those of the float model.

    Attributes:
        inputs: each a tensor, a tuple of arguments, or a dictionary of them by name.
        references: the float model's outputs.
        compare: the comparison.
        higher_is_better: True for a measure of quality, False for an error.
    """

    inputs: tuple[Any, ...]
    references: tuple[tuple[Tensor, ...], ...]
    compare: Compare
    higher_is_better: bool = False

    @property
    def name(self) -> str:
        """The name of the comparison with a digest of the inputs, which distinguishes measurements on other inputs."""
        return f"{_name(self.compare)} on {digest_of(self.inputs)[:16]}"

    def __call__(self, model: nn.Module) -> float:
        """Evaluate `model`."""
        scores = [
            self.compare(reference, _outputs(model, inputs))
            for inputs, reference in zip(self.inputs, self.references, strict=True)
        ]
        return sum(scores) / len(scores)


def against(
    model: nn.Module, inputs: Sequence[Any], compare: Compare | None = None, higher_is_better: bool = False
) -> OutputMetric:
    """Create a metric that compares with the outputs of `model`, which runs once on each input in eval mode.

    Args:
        model: the float model.
        inputs: each a tensor, a tuple of arguments, or a dictionary of them by name.
        compare: the comparison; None is `relative_error`.
        higher_is_better: True for a measure of quality, False for an error.

    Raises:
        SearchError: if there are no inputs.
    """
    if isinstance(inputs, Tensor | Mapping) or not len(inputs):
        raise SearchError("inputs must have at least one input, each a tensor, a tuple of arguments or a dict")
    with mode_restored(model), torch.no_grad():
        model.eval()
        references = tuple(_outputs(model, each) for each in inputs)
    return OutputMetric(tuple(inputs), references, compare or relative_error, higher_is_better)


def relative_error(reference: Sequence[Tensor], output: Sequence[Tensor]) -> float:
    """Return the squared error divided by the squared reference (noise over signal power), 0 for equal outputs."""
    return _squares([o - r for r, o in _pairs(reference, output)]) / (_squares(reference) or 1.0)


def mean_squared_error(reference: Sequence[Tensor], output: Sequence[Tensor]) -> float:
    """Return the mean squared error over all elements."""
    return _squares([o - r for r, o in _pairs(reference, output)]) / max(sum(r.numel() for r in reference), 1)


def peak_signal_to_noise(reference: Sequence[Tensor], output: Sequence[Tensor]) -> float:
    """Return the PSNR in dB, with the largest magnitude of the reference as peak; infinite for equal outputs."""
    error = mean_squared_error(reference, output)
    peak = max((float(r.double().abs().max()) for r in reference if r.numel()), default=1.0)
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error) if peak else -math.inf


def name_of(metric: Metric) -> str:
    """Return the name of a metric in a file of measurements."""
    return str(getattr(metric, "name", None) or _name(metric))


def digest_of(tree: Any) -> str:
    """Return a digest of the tensors and other values in `tree`."""
    leaves, spec = pytree.tree_flatten(tree)
    parts = [tensor_digest(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
    return hashlib.sha256("\n".join([str(spec), *parts]).encode()).hexdigest()


def run(model: nn.Module, inputs: Any) -> Any:
    """Call `model` on a tensor, a tuple of arguments, or a dictionary of them by name."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


def _outputs(model: nn.Module, inputs: Any) -> tuple[Tensor, ...]:
    leaves = pytree.tree_leaves(run(model, inputs))
    return tuple(leaf.detach() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())


def _pairs(reference: Sequence[Tensor], output: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(r.double(), o.double()) for r, o in zip(reference, output, strict=True)]


def _squares(tensors: Sequence[Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors)


def _name(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
