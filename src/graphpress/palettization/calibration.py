"""Importance of weight elements, by gradients of a loss or second moments of layer inputs."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import safetensors
import safetensors.torch
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from graphpress.compressor import ArgumentTypeError
from graphpress.eager import CallObserver, Operator, observed_by
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.files import path_of, write_file
from graphpress.ir.tensors import write_archive
from graphpress.ir.torch.export_errors import reason_of
from graphpress.layer_inputs import LayerMatrix
from graphpress.modules.surgery import Placed, once, placed
from graphpress.palettization.forms import FakePalettized
from graphpress.passes.weights import PalettizationError, PalettizationWarning

_TORCH_SUFFIXES = (".pt", ".pth")
_PARAMETRIZED = re.compile(r"parametrizations\.([^.]+)\.original$")


def _parametrized(name: str) -> str:
    """Return the name that a parameter has in coreai-opt, where a parametrization computes the palettized one."""
    path, dot, parameter = name.rpartition(".")
    return f"{path}{dot}parametrizations.{parameter}.original"


@frozen(eq=False)
class Sensitivities:
    """Importance of the squared error of each element, by the qualified name of the parameter.

    Mean squared gradients have the parameter's shape. Moments of inputs have a shape that expands to it, such as
    ``[1, columns]`` for a linear layer, or a single element if all elements are equally important.
    """

    by_name: Mapping[str, Tensor]

    def of(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """Return the importance of the elements of a parameter, or None if all are equally important.

        It is float32 with a mean of 1, in a shape that expands to `shape`.

        Raises:
            PalettizationError: if there is none of that name and shape, or elements are negative or not finite.
        """
        found = self.by_name.get(name)
        if found is None:
            raise PalettizationError(f"no sensitivities for {name!r}{suggestion(name, self.by_name)}")
        if found.ndim != len(shape) or any(n not in (1, extent) for n, extent in zip(found.shape, shape, strict=True)):
            raise PalettizationError(f"sensitivities of {name!r} have shape {tuple(found.shape)}, the weight {shape}")
        if found.is_complex() or not bool((found >= 0).all() & torch.isfinite(found).all()):
            raise PalettizationError(f"sensitivities of {name!r} must be real, finite and not negative")
        mean = float(found.double().mean())
        return (found.double() / mean).float() if mean > 0 and found.numel() > 1 else None

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file atomically: as coreai-opt does for torch's suffixes, ``.pt`` and ``.pth``, else safetensors.

        Raises:
            PathError, FileError: if `path` is none, or cannot be written.
        """
        if path_of(path, "the path of sensitivities").suffix not in _TORCH_SUFFIXES:
            write_archive(path, self.by_name)
            return
        content = io.BytesIO()
        torch.save({_parametrized(name): tensor for name, tensor in self.by_name.items()}, content)
        write_file(path, content.getvalue())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Sensitivities:
        """Read what `save` or coreai-opt wrote, by its content. Nothing that a file of torch names is run.

        Raises:
            PathError: if `path` is no path.
            PalettizationError: if there is no such file, or its content is not sensitivities.
        """
        file = path_of(path, "the path of sensitivities")
        if file.is_dir():
            raise PalettizationError(f"cannot read sensitivities from {str(path)!r}: it is a folder")
        try:
            if not zipfile.is_zipfile(file):
                return cls(safetensors.torch.load_file(file))
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = str(error).partition("\n")[0]
            raise PalettizationError(f"cannot read sensitivities from {str(path)!r}: {reason}") from error
        if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
            raise PalettizationError(f"{str(path)!r} holds no sensitivities, which are tensors by parameter name")
        return cls({_PARAMETRIZED.sub(r"\1", str(name)): tensor for name, tensor in found.items()})


class CalibrationError(GraphpressError, RuntimeError):
    """No gradient of a calibration step reaches the weights."""


class SensitivityCalibration:
    """Accumulates squared gradients of palettized weights.

    Attributes:
        steps: number of steps.
        ignored: number of further steps, ignored because their gradients were not finite.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor]):
        if not callable(loss_fn):
            raise ArgumentTypeError(
                f"loss_fn is a {type(loss_fn).__name__}; accepted: a function of an output and a target that returns a "
                "scalar tensor"
            )
        self.steps = 0
        self.ignored = 0
        self._loss_fn = loss_fn
        self._places = placed(model, FakePalettized)
        self._named = [(each.name, each.parameter) for each in once(self._places)]
        self._sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in self._named}

    def step(self, output: Any, target: Any) -> Tensor:
        """Accumulate the squared gradient of ``loss_fn(output, target)`` and return the detached loss.

        No `.grad` is written.

        Raises:
            CalibrationError: if the output does not depend on any palettized weight, or was computed without
                gradients, and if torch cannot differentiate the loss.
        """
        loss = self._loss_fn(output, target)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise CalibrationError(
                "the loss has no gradient: run the prepared model inside calibration_mode and outside torch.no_grad()"
            )
        parameters = [parameter for _, parameter in self._named]
        if loss.is_complex():
            raise CalibrationError(f"the loss is {loss.dtype}; accepted: a real scalar")
        try:
            gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
        except RuntimeError as error:
            raise CalibrationError(
                f"torch cannot differentiate the loss: {reason_of(error)}; accepted: the output of a run of the "
                "prepared model for each step, on which backward() was not called"
            ) from error
        if all(gradient is None for gradient in gradients):
            raise CalibrationError("the loss depends on no palettized weight: compute it from the prepared model")
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None):
            self.ignored += 1
            return loss.detach()
        for (name, _), gradient in zip(self._named, gradients, strict=True):
            if gradient is not None:
                self._sums[name] += gradient.detach().float().square()
        self.steps += 1
        return loss.detach()

    def sensitivities(self) -> Sensitivities:
        """Return the mean over the steps; ignored ones cause a warning."""
        _warn_of_ignored(self.ignored, "steps of the calibration", stacklevel=5)
        count = max(self.steps, 1)
        return Sensitivities({name: (total / count).cpu() for name, total in self._sums.items()})

    @contextmanager
    def float_weights(self) -> Iterator[None]:
        """Use the float weights, with gradients, inside the context."""
        forms = [each.form for each in self._places]
        enabled = [form.enabled for form in forms]
        parameters = [parameter for _, parameter in self._named]
        required = [parameter.requires_grad for parameter in parameters]
        try:
            for form in forms:
                form.enabled = False
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield
        finally:
            for form, was in zip(forms, enabled, strict=True):
                form.enabled = was
            for parameter, was in zip(parameters, required, strict=True):
                parameter.requires_grad_(was)


# Least importance, as a fraction of the mean: inputs that were zero in calibration may be nonzero later.
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
    """A palettized parameter, and the energies of the inputs that it multiplies.

    Attributes:
        energies: sums of squares, ``[groups, columns]`` float64. The key is the matrix form of the layer that reads the
            parameter or a view of it, with the shape, stride and storage offset of that view.
    """

    name: str
    parameter: Tensor
    is_asked: bool
    op_type: str
    energies: dict[tuple[LayerMatrix, tuple[int, ...], int], Tensor] = field(factory=dict)

    def importance(self) -> Tensor | None:
        """Return the importance of the elements, or None if no input was observed.

        It is float32, in a shape that expands to the parameter's. The errors of layers that share the parameter add up.
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
    """Sums the squares of the inputs of linear layers, convolutions and matrix products with a parameter.

    Attributes:
        steps: number of observed layer calls.
        ignored: number of further calls, ignored because their inputs were not finite.
    """

    def __init__(self, model: nn.Module):
        self.steps = 0
        self.ignored = 0
        self._model = model
        self._forms = [each.form for each in placed(model, FakePalettized)]
        self._weights = list(_weights_of(placed(model, FakePalettized)))
        self._by_storage: dict[int, list[_Weight]] = {}
        for weight in self._weights:
            if weight.is_asked:
                key = weight.parameter.untyped_storage().data_ptr()
                self._by_storage.setdefault(key, []).append(weight)

    @contextmanager
    def float_weights(self) -> Iterator[None]:
        """Use the float weights and observe the calls of the model inside the context."""
        enabled = [form.enabled for form in self._forms]
        try:
            for form in self._forms:
                form.enabled = False
            with observed_by(self._model, self):
                yield
        finally:
            for form, was in zip(self._forms, enabled, strict=True):
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
        """Return the importances; unobserved weights have equal importances, with a warning if this is unexpected."""
        found = {weight.name: weight.importance() for weight in self._weights}
        unknown = [
            weight.name
            for weight in self._weights
            if weight.is_asked and found[weight.name] is None and weight.op_type not in _LOOKED_UP
        ]
        if unknown:
            warnings.warn(
                "no input of a linear layer, convolution or matrix product was observed for these weights, whose "
                f"elements are equally important: {', '.join(unknown)}",
                PalettizationWarning,
                stacklevel=4,
            )
        _warn_of_ignored(self.ignored, "inputs of layers", stacklevel=5)
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
        """Return the weight that a tensor is, or is a view of, or None."""
        if tensor.layout is not torch.strided:
            return None
        for weight in self._by_storage.get(tensor.untyped_storage().data_ptr(), ()):
            place = tensor.storage_offset() - weight.parameter.storage_offset()
            if tensor.dtype == weight.parameter.dtype and 0 <= place < weight.parameter.numel():
                return weight
        return None


def _warn_of_ignored(count: int, what: str, stacklevel: int) -> None:
    if count:
        warnings.warn(
            f"{count} {what} were ignored because of NaN or infinite values",
            PalettizationWarning,
            stacklevel=stacklevel,
        )


def _weights_of(places: Iterable[Placed[FakePalettized]]) -> Iterator[_Weight]:
    """Yield each palettized parameter once, by its first name; it is activation-aware if any of its places is."""
    found: dict[int, _Weight] = {}
    for place in places:
        parameter, form = place.parameter, place.form
        each = found.setdefault(id(parameter), _Weight(place.name, parameter.detach(), False, form.op_type))
        each.is_asked |= form.spec.activation_aware
    return iter(found.values())
