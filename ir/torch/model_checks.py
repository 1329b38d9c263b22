"""Models that can be neither captured nor compressed: compiled to TorchScript, or without data."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from graphpress.ir.errors import GraphpressError

# A string, so that copying and pickling preserve it.
PREPARED = "_graphpress_preparation"
"""Attribute of a prepared model, which names its preparation; finalized models have none."""


class ModelError(GraphpressError, TypeError):
    """A model of a kind that cannot be captured, or one whose tensors have no data."""


def check_model(model: nn.Module | ExportedProgram) -> None:
    """Check that `model` has Python code or a program, and tensors with data.

    Raises:
        ModelError: naming the module or tensor, and what is accepted.
    """
    if isinstance(model, nn.Module):
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                where = f"{path} is" if path else "the model is"
                raise ModelError(
                    f"{where} a TorchScript module ({type(module).__name__}), which is compiled code; accepted: the "
                    "torch.nn.Module that it was scripted or traced from"
                )
    for name, tensor in _tensors(model):
        problem = _without_data(tensor)
        if problem:
            raise ModelError(f"{name} of {type(model).__qualname__} {problem}")


def check_finalized(model: object) -> None:
    """Check that `model` is not a prepared module, whose compression is simulated in floats.

    Raises:
        ModelError: if it is.
    """
    if isinstance(model, nn.Module) and PREPARED in vars(model):
        raise ModelError(
            "the model is prepared: it simulates its compression in floats; accepted: the result of "
            "finalize(backend=ExportBackend.CoreAI) of the compressor that prepared it"
        )


def _tensors(model: nn.Module | ExportedProgram) -> Iterator[tuple[str, Tensor]]:
    if isinstance(model, nn.Module):
        yield from model.named_parameters()
        yield from model.named_buffers()
    else:
        yield from model.state_dict.items()
        yield from ((name, each) for name, each in model.constants.items() if isinstance(each, Tensor))


def _without_data(tensor: Tensor) -> str | None:
    if is_lazy(tensor):
        return "has no shape yet; accepted: a model that was called once, which gives lazy modules their shapes"
    if isinstance(tensor, FakeTensor):
        return "is a fake tensor, without data; accepted: a model that was created outside FakeTensorMode"
    if tensor.is_meta:
        return (
            "is on the meta device, without data; accepted: a model with its weights, as by "
            "model.to_empty(device='cpu') and model.load_state_dict(...)"
        )
    return None
