"""Measure how much each element of a weight matters, without gradients: second moments of the input it multiplies.

The mean squared error of ``W x`` is ``sum over o of d_o E[x x^T] d_o^T``, where ``d_o`` is the error of row o of the
weight. The diagonal of it, ``sum over o, k of E[x_k^2] d_ok^2``, is a squared error in which element ``(o, k)`` counts
by ``E[x_k^2]``: the objective of a weighted k-means.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn

from graphpress.eager import CallObserver, Operator, observed_by
from graphpress.layer_inputs.layer_matrix import LayerMatrix
from graphpress.palettization.forms import FakePalettized, fake_forms
from graphpress.palettization.sensitivities import Sensitivities
from graphpress.passes.palettization import PalettizationWarning

# What each element counts at least, as a share of the mean: inputs that were zero here may not be elsewhere.
DAMPING = 0.01

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "linear": ("input", "weight"),
    **{f"conv{axes}d": _CONVOLUTION for axes in (1, 2, 3)},
    **{f"conv_transpose{axes}d": _TRANSPOSED for axes in (1, 2, 3)},
    **dict.fromkeys(("matmul", "mm"), ("input", "right")),
    "addmm": ("added", "input", "right"),
}
_KEYWORDS = {"other": "right", "mat2": "right", "mat1": "input"}
# Rows of an embedding are looked up, not multiplied: they have no columns.
_LOOKED_UP = ("embedding", "embedding_bag")


@define(eq=False)
class _Weight:
    """A palettized parameter, and what was seen of the inputs that it multiplies.

    Attributes:
        energies: sums of squares, ``[groups, columns]`` float64, by how the layer that reads the parameter, or a view
            of it, is a matrix: with the shape, stride and storage offset of what it reads.
    """

    name: str
    parameter: Tensor
    is_asked: bool
    op_type: str
    energies: dict[tuple[LayerMatrix, tuple[int, ...], int], Tensor] = field(factory=dict)

    def importance(self) -> Tensor | None:
        """How much each element counts, float32, in a shape that expands to the parameter's; None where none was seen.

        Where layers share the parameter, or parts of it, their errors add up.
        """
        if not self.energies:
            return None
        shape = tuple(self.parameter.shape)
        (matrix, stride, offset), energies = next(iter(self.energies.items()))
        whole = shape, self.parameter.stride(), self.parameter.storage_offset()
        is_whole = (matrix.shape, stride, offset) == whole
        if len(self.energies) == 1 and is_whole and matrix.groups == 1 and not matrix.is_transposed:
            found = energies.reshape(1, *shape[1:])
        else:
            found = torch.empty_strided(shape, self.parameter.stride(), dtype=torch.float64).zero_()
            start = self.parameter.storage_offset()
            for (matrix, stride, offset), energies in self.energies.items():
                part = found.as_strided(matrix.shape, stride, offset - start)
                part += matrix.from_matrices(energies[:, None].expand(-1, matrix.outputs, -1))
        mean = float(found.mean())
        return (found + DAMPING * mean).float() if mean > 0 else None


class ActivationCalibration(CallObserver):
    """Sums the squares of what enters linear layers, convolutions and products with a parameter.

    Attributes:
        steps: how many calls of layers were seen.
        ignored: how many more had inputs that are not finite, which count for nothing.
    """

    def __init__(self, model: nn.Module):
        self.steps = 0
        self.ignored = 0
        self._forms = fake_forms(model)
        self._model = model
        self._weights = list(_weights_of(self._forms))
        self._by_storage: dict[int, list[_Weight]] = {}
        for weight in self._weights:
            if weight.is_asked:
                key = weight.parameter.untyped_storage().data_ptr()
                self._by_storage.setdefault(key, []).append(weight)

    @contextmanager
    def float_weights(self) -> Iterator[None]:
        """See what the model, which computes with its float weights inside, calls."""
        enabled = [form.enabled for _, _, form in self._forms]
        try:
            for _, _, form in self._forms:
                form.enabled = False
            with observed_by(self._model, self):
                yield
        finally:
            for (_, _, form), was in zip(self._forms, enabled, strict=True):
                form.enabled = was

    def call(self, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See the base class."""
        names = _ARGUMENTS.get(operator.op_type)
        if names is not None:
            given = dict(zip(names, args, strict=False))
            given |= {_KEYWORDS.get(name, name): value for name, value in kwargs.items()}
            with torch.no_grad():
                self._note(operator.op_type, given)
        return operator.function(*args, **kwargs)

    def sensitivities(self) -> Sensitivities:
        """What was seen; a weight of which nothing is known counts evenly. One warning names those that should be."""
        found = {weight.name: weight.importance() for weight in self._weights}
        unknown = [
            weight.name
            for weight in self._weights
            if weight.is_asked and found[weight.name] is None and weight.op_type not in _LOOKED_UP
        ]
        if unknown:
            warnings.warn(
                "no input of a linear layer, convolution or product was seen for these weights, whose elements count "
                f"evenly: {', '.join(unknown)}",
                PalettizationWarning,
                stacklevel=4,
            )
        if self.ignored:
            warnings.warn(
                f"{self.ignored} inputs of layers were NaN or infinite, and count for nothing",
                PalettizationWarning,
                stacklevel=4,
            )
        return Sensitivities(
            {
                weight.name: torch.ones([1] * weight.parameter.ndim) if known is None else known
                for weight in self._weights
                for known in (found[weight.name],)
            }
        )

    def _note(self, op_type: str, given: Mapping[str, Any]) -> None:
        weight, data = given.get("weight", given.get("right")), given.get("input")
        if not isinstance(weight, Tensor) or not isinstance(data, Tensor) or not data.numel():
            return
        owner = self._owner(weight)
        if owner is None or (weight.ndim != 2 and "right" in given):
            return
        if "right" in given:
            weight, op_type = weight.t(), "linear"
        matrix = LayerMatrix.of(op_type, weight.shape, dict(given))
        energies = matrix.column_energies(data).cpu()
        if not bool(torch.isfinite(energies).all()):
            self.ignored += 1
            return
        self.steps += 1
        key = matrix, weight.stride(), int(weight.storage_offset())
        known = owner.energies.get(key)
        owner.energies[key] = energies if known is None else known.add_(energies)

    def _owner(self, tensor: Tensor) -> _Weight | None:
        """The weight that a tensor is, or is a view of."""
        if tensor.layout is not torch.strided:
            return None
        for weight in self._by_storage.get(tensor.untyped_storage().data_ptr(), ()):
            place = tensor.storage_offset() - weight.parameter.storage_offset()
            if tensor.dtype == weight.parameter.dtype and 0 <= place < weight.parameter.numel():
                return weight
        return None


def _weights_of(forms: Iterable[tuple[str, nn.Module, FakePalettized]]) -> Iterator[_Weight]:
    """Each palettized parameter once, by the first of its names; asked for where any of its places asks."""
    found: dict[int, _Weight] = {}
    for path, module, form in forms:
        parameter = module._parameters[form.name]
        assert parameter is not None
        each = found.setdefault(
            id(parameter), _Weight(form.qualified_name(path), parameter.detach(), False, form.op_type)
        )
        each.is_asked |= form.spec.activation_aware
    return iter(found.values())
