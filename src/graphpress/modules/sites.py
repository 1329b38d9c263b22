"""The parameters of a model as configs address them, by module, op and name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphpress.eager import OpCall, Recording, TensorUse, module_stack
from graphpress.modules.forms import forms_of
from graphpress.passes.analysis.weights import can_be_weight
from graphpress.passes.config import Obstacle, OpSite, SkipReason, Taken, WeightSite
from graphpress.passes.config.weights import WEIGHT

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
"""Module classes whose weights are compressed by default."""

UNKNOWN_OP = "parameter"
"""Op type of a parameter without a known reader."""


@frozen(eq=False)
class StateSite:
    """A parameter at one place in a model.

    Attributes:
        module: the module that registers it.
        name: its name in the module.
        path: the module's path.
        parameter: the tensor; tied parameters have several sites.
        weight: the record that a config decides on.
        reader: the first recorded op that reads it, or None.
        reading: its recorded use by the op that it belongs to, or None.
    """

    module: nn.Module
    name: str
    path: str
    parameter: Tensor
    weight: WeightSite
    reader: OpCall | None = None
    reading: TensorUse | None = None

    @property
    def site(self) -> OpSite:
        """The op that the parameter belongs to, as configs address it."""
        return self.weight.op

    @property
    def qualified_name(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.name}" if self.path else self.name

    @property
    def family(self) -> str:
        """The op's type in the op tables, which distinguish recurrent ops by their nonlinearity."""
        return _family(self.site.op_type)


def state_sites(model: nn.Module, recording: Recording | None = None) -> list[StateSite]:
    """Return the sites of every floating parameter of `model`, several for tied parameters.

    The op of a parameter follows from its module's class. In user-defined modules it is the first op that reads the
    parameter in `recording`.
    """
    return [site for site in weight_sites(model, recording) if site.name in site.module._parameters]


def weight_sites(model: nn.Module, recording: Recording | None = None) -> list[StateSite]:
    """Return `state_sites` and the sites of computed weights, which have shape and dtype only."""
    read_by = {} if recording is None else _readers(model, recording)
    modules = dict(model.named_modules(remove_duplicate=False))
    return [site for path, module in modules.items() for site in _sites_in(module, path, modules, read_by)]


@frozen(eq=False)
class _Reader:
    """An op that reads a parameter, and the parameter's name in the recording."""

    call: OpCall
    name: str

    def reading(self, op_type: str) -> TensorUse | None:
        """Return how the op reads the parameter, or None if it is of another type."""
        if self.call.op_type != op_type:
            return None
        return next((use for use in self.call.operands if use.is_view and self.name in (use.states or ())), None)


def _readers(model: nn.Module, recording: Recording) -> dict[int, _Reader]:
    """Return the first op that computes with each parameter or a view of it, by the parameter's ``id``."""
    ids = {name: id(parameter) for name, parameter in model.named_parameters()}
    found: dict[int, _Reader] = {}
    for call in recording.ops:
        if all(result.is_view for result in call.results):
            continue
        for use in call.operands:
            for name in use.states or () if use.is_view else ():
                if name in ids:
                    found.setdefault(ids[name], _Reader(call, name))
    return found


def _sites_in(
    module: nn.Module, path: str, modules: Mapping[str, nn.Module], read_by: Mapping[int, _Reader]
) -> Iterator[StateSite]:
    owned: dict[str, Tensor] = {
        name: each for name, each in module._parameters.items() if each is not None and each.is_floating_point()
    }
    computed = _computed(module)
    if not owned and not computed:
        return
    stack = module_stack(path, modules)
    found = []
    for name, tensor in (owned | computed).items():
        reader = read_by.get(id(tensor))
        call = None if reader is None else reader.call
        op_type, op_name = _op_and_name(module, path, call)
        op = OpSite(op_name, op_type, stack)
        reading = None if reader is None else reader.reading(op_type)
        operand = _operand(module, name, reading)
        weight = WeightSite(
            op,
            (name,),
            tensor.ndim,
            operand,
            is_factor=operand is not None and can_be_weight(_family(op_type), operand, tensor.ndim),
            obstacle=_obstacle(module, name),
        )
        found.append(StateSite(module, name, path, tensor, weight, call, reading))
    states: dict[OpSite, list[str]] = {}
    for each in found:
        general = [WEIGHT] if each.weight.is_factor else []  # a weight of another name is skipped, not unmatched
        states.setdefault(each.site, []).extend((*each.weight.keys(Taken.FACTORS), *general))
    for each in found:
        op = attrs.evolve(each.site, states=tuple(dict.fromkeys(states[each.site])))
        yield attrs.evolve(each, weight=attrs.evolve(each.weight, op=op))


def _operand(module: nn.Module, name: str, reading: TensorUse | None) -> str | None:
    """Return the operand name of a parameter; without a recorded use, layers read ``weight`` and ``bias``."""
    if reading is not None:
        return reading.operand
    if _op(module) is None:
        return None
    if name.startswith("bias"):
        return "bias"
    return "weight" if isinstance(module, nn.MultiheadAttention) or name == "weight" else "params"


def _computed(module: nn.Module) -> dict[str, Tensor]:
    """Return the computed weights of a layer by name, without data, except weights that are stored compressed."""
    names = [*getattr(module, "parametrizations", ())] if parametrize.is_parametrized(module) else []
    names += ["weight"] if isinstance(module, SUPPORTED_MODULES) else []
    known = {*module._parameters, *forms_of(module)}
    tensors = {name: getattr(module, name, None) for name in names if name not in known}
    return {
        name: torch.empty_like(each, device="meta")
        for name, each in tensors.items()
        if isinstance(each, Tensor) and each.is_floating_point()
    }


def _obstacle(module: nn.Module, name: str) -> Obstacle | None:
    """Return the reason why a parameter cannot be compressed, or None."""
    if name in forms_of(module):
        return Obstacle(SkipReason.ALREADY_COMPRESSED, "it is compressed already")
    if name not in module._parameters:
        return Obstacle(SkipReason.COMPUTED, "it is computed, by a parametrization; remove that first")
    if getattr(module, "max_norm", None) is not None:
        return Obstacle(SkipReason.CHANGED_BY_FORWARD, "with max_norm, the layer itself changes it as it runs")
    return None


def _op_and_name(module: nn.Module, path: str, reader: OpCall | None) -> tuple[str, str]:
    """Return type and name of the op that reads a parameter; the name is always in the owning module."""
    op_type = _op(module) or (UNKNOWN_OP if reader is None else reader.op_type)
    if reader is not None and reader.module is module and reader.op_type == op_type:
        return op_type, reader.qualified_name
    return op_type, f"{path}.{op_type}" if path else op_type


def _op(module: nn.Module) -> str | None:
    """Return the op type of a known module class, or None."""
    return next((op for kind, op in _OPS if isinstance(module, kind)), None)


def _family(op_type: str) -> str:
    return op_type.replace("rnn", "rnn_tanh") if op_type in ("rnn", "rnn_cell") else op_type
