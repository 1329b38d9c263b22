"""The parameters of a model as configs address them: by module, by op, by name."""

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
        weight: the parameter as a config decides about it.
        reader: the first op that reads it, whichever op that is; None where none was seen to.
        reading: how the op that it belongs to reads it; None where that was not seen.
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
        """The op that the parameter belongs to, as a config addresses it."""
        return self.weight.op

    @property
    def qualified_name(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.name}" if self.path else self.name

    @property
    def family(self) -> str:
        """The op's type as the tables of ops call it, which tell recurrent ones by their nonlinearity."""
        return _family(self.site.op_type)


def state_sites(model: nn.Module, recording: Recording | None = None) -> list[StateSite]:
    """Every floating parameter of `model`, tied ones at each place.

    The op of a parameter is known by the kind of its module. In modules of the user's own it is the first op that reads
    the parameter in the `recording` of a run.
    """
    return [site for site in weight_sites(model, recording) if site.name in site.module._parameters]


def weight_sites(model: nn.Module, recording: Recording | None = None) -> list[StateSite]:
    """`state_sites`, and those of the weights that layers compute instead; of these there are shape and dtype only."""
    read_by = {} if recording is None else _readers(model, recording)
    modules = dict(model.named_modules(remove_duplicate=False))
    return [site for path, module in modules.items() for site in _sites_in(module, path, modules, read_by)]


@frozen(eq=False)
class _Reader:
    """An op that reads a parameter, which goes by `name` in the recording."""

    call: OpCall
    name: str

    def reading(self, op_type: str) -> TensorUse | None:
        """How it reads the parameter, where it is an op of that type."""
        if self.call.op_type != op_type:
            return None
        return next((use for use in self.call.operands if use.is_view and self.name in (use.states or ())), None)


def _readers(model: nn.Module, recording: Recording) -> dict[int, _Reader]:
    """The first op that computes with each parameter or a view of it, by the ``id`` of the parameter."""
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
    """The operand that a parameter is; where that was not seen, layers read theirs as ``weight`` and ``bias``."""
    if reading is not None:
        return reading.operand
    if _op(module) is None:
        return None
    if name.startswith("bias"):
        return "bias"
    return "weight" if isinstance(module, nn.MultiheadAttention) or name == "weight" else "params"


def _computed(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a layer that are no parameters of it, by name, without their data; not those that are stored in
    another form.
    """
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
    """What keeps a parameter from being stored in another form."""
    if name in forms_of(module):
        return Obstacle(SkipReason.ALREADY_COMPRESSED, "it is compressed already")
    if name not in module._parameters:
        return Obstacle(SkipReason.COMPUTED, "it is computed, by a parametrization; remove that first")
    if getattr(module, "max_norm", None) is not None:
        return Obstacle(SkipReason.CHANGED_BY_FORWARD, "with max_norm, the layer itself changes it as it runs")
    return None


def _op_and_name(module: nn.Module, path: str, reader: OpCall | None) -> tuple[str, str]:
    """Type and name of the op that reads a parameter; one that another module calls is named as if its owner did."""
    op_type = _op(module) or (UNKNOWN_OP if reader is None else reader.op_type)
    if reader is not None and reader.module is module and reader.op_type == op_type:
        return op_type, reader.qualified_name
    return op_type, f"{path}.{op_type}" if path else op_type


def _op(module: nn.Module) -> str | None:
    """The op that modules of a known kind are; None for others."""
    return next((op for kind, op in _OPS if isinstance(module, kind)), None)


def _family(op_type: str) -> str:
    return op_type.replace("rnn", "rnn_tanh") if op_type in ("rnn", "rnn_cell") else op_type
