"""Metrics: what a model is judged by. Any callable from a module to a number is one; these compare outputs."""

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
    """A search that cannot be made as asked; the message says what is accepted."""


class SearchWarning(UserWarning):
    """Something a user should know about measurements: candidates that do not fit, what compressors warned about."""


Metric: TypeAlias = Callable[[nn.Module], float]
"""Judges a model. An attribute `higher_is_better` that is true turns the order round; `name` tells metrics apart."""

Compare: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], float]
"""Compares what the float model puts out with what another one does: floating tensors, in order."""


@frozen(eq=False)
class OutputMetric:
    """The mean, over inputs, of a comparison of a model's outputs with those of the float model.

    Attributes:
        inputs: each a tensor, a tuple of arguments, or a dictionary of them by name.
        references: the float model's outputs.
        compare: the comparison.
        higher_is_better: whether it is one of quality rather than error.
    """

    inputs: tuple[Any, ...]
    references: tuple[tuple[Tensor, ...], ...]
    compare: Compare
    higher_is_better: bool = False

    @property
    def name(self) -> str:
        """The comparison and a digest of the inputs: what was measured with other inputs is something else."""
        return f"{_name(self.compare)} on {digest_of(self.inputs)[:16]}"

    def __call__(self, model: nn.Module) -> float:
        """Judge `model`."""
        scores = [
            self.compare(reference, _outputs(model, inputs))
            for inputs, reference in zip(self.inputs, self.references, strict=True)
        ]
        return sum(scores) / len(scores)


def against(
    model: nn.Module, inputs: Sequence[Any], compare: Compare | None = None, higher_is_better: bool = False
) -> OutputMetric:
    """A metric that compares with the outputs of `model`, which runs once on each of `inputs`, in eval mode.

    Args:
        compare: by default `relative_error`.

    Raises:
        SearchError: when there are no inputs.
    """
    if isinstance(inputs, Tensor | Mapping) or not len(inputs):
        raise SearchError("inputs is a sequence of at least one input: each a tensor, a tuple of arguments or a dict")
    with mode_restored(model), torch.no_grad():
        model.eval()
        references = tuple(_outputs(model, each) for each in inputs)
    return OutputMetric(tuple(inputs), references, compare or relative_error, higher_is_better)


def relative_error(reference: Sequence[Tensor], output: Sequence[Tensor]) -> float:
    """The squared error over the squared reference: noise power over signal power. 0 for equal outputs."""
    return _squares([o - r for r, o in _pairs(reference, output)]) / (_squares(reference) or 1.0)


def mean_squared_error(reference: Sequence[Tensor], output: Sequence[Tensor]) -> float:
    """The mean of the squared error over all elements."""
    return _squares([o - r for r, o in _pairs(reference, output)]) / max(sum(r.numel() for r in reference), 1)


def peak_signal_to_noise(reference: Sequence[Tensor], output: Sequence[Tensor]) -> float:
    """In dB, the peak being the largest magnitude of the reference; infinite for equal outputs. Higher is better."""
    error = mean_squared_error(reference, output)
    peak = max((float(r.double().abs().max()) for r in reference if r.numel()), default=1.0)
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error) if peak else -math.inf


def name_of(metric: Metric) -> str:
    """What a metric is known by in a file of measurements."""
    return str(getattr(metric, "name", None) or _name(metric))


def digest_of(tree: Any) -> str:
    """A digest of the tensors and other values in `tree`."""
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
