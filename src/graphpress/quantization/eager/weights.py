"""Which parameters of an eagerly quantized model are quantized, and in which blocks."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from torch import Tensor, nn

from graphpress.eager import Recording, TensorUse
from graphpress.modules import planning
from graphpress.modules.sites import StateSite
from graphpress.passes.analysis.weights import einsum_axes, operand_axes, weight_block_of
from graphpress.passes.config import (
    AxisError,
    BlockSizeError,
    ConfigResolver,
    Granularity,
    Indivisible,
    OpSite,
    QATSchedule,
    QuantizationSpec,
    SkippedWeight,
    Taken,
    cannot_be_cut,
    indivisible,
)
from graphpress.passes.weights.errors import QuantizationError


@frozen(eq=False)
class PlannedWeight:
    """A parameter to quantize: where it stands (several sites when it is tied), how, the dims of a block, and when in
    training.
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
        skipped: those that the config means and that stay as they are.
    """

    weights: tuple[PlannedWeight, ...]
    sites: tuple[OpSite, ...]
    skipped: tuple[SkippedWeight, ...]


def plan_weights(
    model: nn.Module, recording: Recording, resolver: ConfigResolver, *, leave_indivisible: bool
) -> StatePlan:
    """Resolve the config for the parameters of `model`, of which one run was recorded.

    Weights that blocks do not divide are skipped where `leave_indivisible`, and are an error else.

    Raises:
        QuantizationError: naming the weights that cannot be divided as the config says.
    """
    rule = Indivisible.SKIP if leave_indivisible else Indivisible.REFUSE_UNLESS_UNKNOWN
    plan = planning.plan_weights(model, resolver, Taken.FACTORS, recording)
    weights: list[PlannedWeight] = []
    skipped = [*plan.skipped]
    refused: list[SkippedWeight] = []
    for each in plan.weights:
        try:
            block = _block(each.chosen, each.spec.granularity)
        except (BlockSizeError, AxisError) as error:
            is_refused = rule.refuses(error, is_specific=each.is_specific)
            (refused if is_refused else skipped).append(indivisible(each.name, error))
            continue
        schedule = resolver.training_schedule(each.chosen.site.module_stack)
        weights.append(PlannedWeight(each.places, each.spec, block, schedule))
    if refused:
        raise QuantizationError(cannot_be_cut(refused))
    return StatePlan(tuple(weights), plan.sites, tuple(skipped))


def _block(place: StateSite, granularity: Granularity) -> tuple[int, ...]:
    """The dims of a block along the axes of the parameter, which the op may read the other way round."""
    shape, reader, reading = tuple(place.parameter.shape), place.reader, place.reading
    operand = "weight" if reading is None else reading.operand
    family = place.family
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
