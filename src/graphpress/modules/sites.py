"""The parameters of a module as configs address them: by module, by op, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen
from torch import nn

from graphpress.eager import OpCall, Recording, module_scopes, module_stack, recorded
from graphpress.passes.config import OpSite

__all__ = ["SUPPORTED_MODULES", "UNKNOWN_OP", "LayerSite", "StateSite", "layer_sites", "module_scopes", "state_sites"]

_OPS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.Embedding, "embedding"),
    (nn.EmbeddingBag, "embedding_bag"),
    (nn.Bilinear, "bilinear"),
    (nn.MultiheadAttention, "linear"),
    (nn.LSTM, "lstm"),
    (nn.GRU, "gru"),
    (nn.RNN, "rnn"),
    (nn.LSTMCell, "lstm_cell"),
    (nn.GRUCell, "gru_cell"),
    (nn.RNNCell, "rnn_cell"),
    (nn.LayerNorm, "layer_norm"),
    (nn.GroupNorm, "group_norm"),
    (nn.modules.batchnorm._BatchNorm, "batch_norm"),
)

SUPPORTED_MODULES: tuple[type[nn.Module], ...] = tuple(kind for kind, op in _OPS if not op.endswith("norm"))
"""Modules whose weights are worth compressing."""

UNKNOWN_OP = "parameter"
"""Op type of a parameter that no op was seen to read."""


@frozen(eq=False)
class StateSite:
    """One parameter in one module.

    Attributes:
        module: that registers it.
        name: in the module.
        path: of the module.
        parameter: the tensor; tied parameters have several sites.
        site: the op that reads it, as a config addresses it.
    """

    module: nn.Module
    name: str
    path: str
    parameter: nn.Parameter
    site: OpSite

    @property
    def qualified_name(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.name}" if self.path else self.name


@frozen(eq=False)
class LayerSite:
    """A layer of a supported kind: module, path, and its op as a config addresses it."""

    module: nn.Module
    path: str
    site: OpSite


def state_sites(
    model: nn.Module, run: Callable[[], Any] | None = None, recording: Recording | None = None
) -> list[StateSite]:
    """Every floating parameter of `model`, tied ones at each place.

    The op of a parameter is known by the kind of its module. In modules of the user's own it is the first op that reads
    the parameter while `run` runs the model, or in the `recording` of a run.
    """
    if run is not None:
        recording = recorded(model, run)
    return list(_sites(model, {} if recording is None else readers(model, recording)))


def readers(model: nn.Module, recording: Recording) -> dict[int, OpCall]:
    """The first op that computes with each parameter or a view of it, by the ``id`` of the parameter."""
    ids = {name: id(parameter) for name, parameter in model.named_parameters()}
    found: dict[int, OpCall] = {}
    for call in recording.ops:
        if all(result.is_view for result in call.results):
            continue
        for use in call.operands:
            for name in use.states or () if use.is_view else ():
                if name in ids:
                    found.setdefault(ids[name], call)
    return found


def layer_sites(model: nn.Module) -> list[LayerSite]:
    """The supported modules of `model`, by the op each is."""
    modules = dict(model.named_modules())
    found = []
    for path, module in modules.items():
        if isinstance(module, SUPPORTED_MODULES):
            op = _op(module) or UNKNOWN_OP
            site = OpSite(f"{path}.{op}" if path else op, op, module_stack(path, modules))
            found.append(LayerSite(module, path, site))
    return found


def _sites(model: nn.Module, read_by: dict[int, OpCall]) -> Iterator[StateSite]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        owned = {name: p for name, p in module._parameters.items() if p is not None and p.is_floating_point()}
        ops = {name: _op_and_name(module, path, read_by.get(id(parameter))) for name, parameter in owned.items()}
        stack = module_stack(path, modules) if owned else ()
        for name, parameter in owned.items():
            op_type, op_name = ops[name]
            states = tuple(other for other in owned if ops[other] == ops[name])
            yield StateSite(module, name, path, parameter, OpSite(op_name, op_type, stack, states=states))


def _op_and_name(module: nn.Module, path: str, reader: OpCall | None) -> tuple[str, str]:
    """Type and name of the op that reads a parameter; one that another module calls is named as if its owner did."""
    op_type = _op(module) or (UNKNOWN_OP if reader is None else reader.op_type)
    if reader is not None and reader.module is module and reader.op_type == op_type:
        return op_type, reader.qualified_name
    return op_type, f"{path}.{op_type}" if path else op_type


def _op(module: nn.Module) -> str | None:
    """The op that modules of a known kind are; None for others."""
    return next((op for kind, op in _OPS if isinstance(module, kind)), None)
