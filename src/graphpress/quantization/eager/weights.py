"""Which parameters of an eagerly quantized model are quantized, and in which blocks."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from attrs import frozen
from torch import Tensor, nn

from graphpress.eager import OpCall, Recording, TensorUse
from graphpress.modules.forms import forms_of
from graphpress.modules.sites import UNKNOWN_OP, StateSite, readers, state_sites
from graphpress.passes.analysis.weights import can_be_weight, einsum_axes, operand_axes, weight_block_of
from graphpress.passes.config import (
    AxisError,
    BlockSizeError,
    ConfigResolver,
    Decision,
    Granularity,
    OpSite,
    QATSchedule,
    QuantizationSpec,
)
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization.eager.placing import bare


@frozen(eq=False)
class PlannedWeight:
    """A parameter to quantize: where it stands (several sites when it is tied), how, the extents of a block, and when
    in training.
    """

    places: tuple[StateSite, ...]
    spec: QuantizationSpec
    block_size: tuple[int, ...]
    schedule: QATSchedule | None = None


@frozen(eq=False)
class StatePlan:
    """What becomes of the parameters.

    Attributes:
        weights: those to quantize.
        sites: all of them, as configs address them.
        left: those that the config speaks of and that stay whole, with the reason.
    """

    weights: tuple[PlannedWeight, ...]
    sites: tuple[OpSite, ...]
    left: tuple[str, ...]


def plan_weights(
    model: nn.Module, recording: Recording, resolver: ConfigResolver, *, leave_indivisible: bool
) -> StatePlan:
    """Resolve the config for the parameters of `model`, of which one run was recorded.

    Weights that blocks do not divide are left whole where `leave_indivisible`, and are an error else.

    Raises:
        QuantizationError: naming the weights that cannot be cut as the config says.
    """
    read_by = readers(model, recording)
    by_parameter: dict[int, list[StateSite]] = {}
    sites = []
    for each in state_sites(model, recording=recording):
        place = attrs.evolve(each, site=_with_aliases(each, read_by.get(id(each.parameter))))
        sites.append(place.site)
        by_parameter.setdefault(id(each.parameter), []).append(place)
    weights: list[PlannedWeight] = []
    left: list[str] = []
    errors: list[str] = []
    for identity, places in by_parameter.items():
        decisions = [(_decision(place, resolver), place) for place in places]
        decision, place = max(decisions, key=lambda item: _rank(item[0]))
        if decision.spec is None or not _is_meant(place, decision, read_by.get(identity)):
            continue
        if reason := _refusal(place):
            left.append(f"{place.qualified_name}: {reason}")
            continue
        try:
            block = _block(place, decision.spec.granularity, read_by.get(identity))
        except (BlockSizeError, AxisError) as error:
            must_fit = not leave_indivisible and (decision.is_specific or isinstance(error, BlockSizeError))
            (errors if must_fit else left).append(f"{place.qualified_name}: {error}")
            continue
        schedule = resolver.training_schedule(place.site.module_stack)
        weights.append(PlannedWeight(tuple(places), decision.spec, block, schedule))
    if errors:
        lines = "".join(f"\n  {line}" for line in errors)
        raise QuantizationError(
            f"{len(errors)} weights cannot be cut as the config says (leave_indivisible=True leaves them whole):{lines}"
        )
    return StatePlan(tuple(weights), tuple(sites), tuple(left))


def _with_aliases(place: StateSite, reader: OpCall | None) -> OpSite:
    """The site, with ``weight`` among its states where the parameter is one whatever its name is, as in graph mode."""
    states = list(place.site.states or ())
    if _is_weight(place, reader):
        states += [*([reading.name] if (reading := _reading(place, reader)) else []), "weight"]
    return attrs.evolve(place.site, states=tuple(dict.fromkeys(states)))


def _decision(place: StateSite, resolver: ConfigResolver) -> Decision:
    """A config speaks of a weight by its name, or as ``weight``."""
    names = [place.name, *(["weight"] if "weight" in (place.site.states or ()) else [])]
    decisions = [resolver.explain_state(place.site, name) for name in dict.fromkeys(names)]
    return next((decision for decision in decisions if decision.explicit), decisions[-1])


def _rank(decision: Decision) -> tuple[bool, int, int]:
    return decision.explicit, int(decision.level), int(decision.op_level or 0)


def _is_meant(place: StateSite, decision: Decision, reader: OpCall | None) -> bool:
    """Blanket entries mean weights; others mean what they name."""
    if place.name in forms_of(place.module):
        return False  # it is compressed already
    is_blanket = decision.source.endswith(("['weight']", "['*']"))
    return _is_weight(place, reader) if is_blanket else place.parameter.ndim > 0


def _is_weight(place: StateSite, reader: OpCall | None) -> bool:
    op_type = _family(place)
    reading = _reading(place, reader)
    operand = bare(reading.name) if reading is not None else "weight"
    if op_type == UNKNOWN_OP or place.name.startswith("bias"):
        return False
    return can_be_weight(op_type, operand, place.parameter.ndim)


def _family(place: StateSite) -> str:
    """The op as the tables of ops call it, which tell recurrent ones by their nonlinearity."""
    op_type = place.site.op_type
    return op_type.replace("rnn", "rnn_tanh") if op_type in ("rnn", "rnn_cell") else op_type


def _reading(place: StateSite, reader: OpCall | None) -> TensorUse | None:
    """How the op that the site is about reads the parameter; None where that was not seen."""
    if reader is None or reader.op_type != place.site.op_type:
        return None
    return next(
        (use for use in reader.operands if use.is_view and place.qualified_name in (use.states or ())),
        None,
    )


def _refusal(place: StateSite) -> str:
    if getattr(place.module, "max_norm", None) is not None:
        return "with max_norm, the layer itself changes it as it runs"
    return ""


def _block(place: StateSite, granularity: Granularity, reader: OpCall | None) -> tuple[int, ...]:
    """The extents of a block along the axes of the parameter, which the op may read the other way round."""
    shape, reading = tuple(place.parameter.shape), _reading(place, reader)
    operand = "weight" if reading is None else bare(reading.name)
    family = _family(place)
    axes = operand_axes(family, {"input": "self"}.get(operand, operand))
    if isinstance(place.module, nn.RNNBase | nn.RNNCellBase):
        axes = (-2, -1)
    elif family == "einsum" and reader is not None and reading is not None:
        axes = einsum_axes(reader.equation, int(reading.name.rpartition("_")[2]))
    order = None if reading is None else _order(place.parameter, reading)
    if order is None or order == tuple(range(len(shape))):
        return weight_block_of(family, shape, granularity, place.qualified_name, axes)
    assert reading is not None
    block = weight_block_of(family, reading.shape, granularity, place.qualified_name, axes)
    return tuple(size for _, size in sorted(zip(order, block, strict=True))) if block else ()


def _order(parameter: Tensor, reading: TensorUse) -> tuple[int, ...] | None:
    """For each axis of what is read the axis of the parameter it is; None where that is not a matter of order."""
    axes = list(zip(parameter.shape, parameter.stride(), strict=True))
    wanted: Sequence[tuple[int, int]] = list(zip(reading.shape, reading.stride, strict=False))
    if sorted(axes) != sorted(wanted) or len(set(axes)) < len(axes):
        return None
    return tuple(axes.index(axis) for axis in wanted)
