"""Resolution of the config to the parameters of an eagerly quantized model."""

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
    UncutWeight,
    cannot_be_cut,
)
from graphpress.passes.config.axes import has_default_axis
from graphpress.passes.weights.errors import QuantizationError
from graphpress.passes.weights.quantize import require_finite


@frozen(eq=False)
class PlannedWeight:
    """A parameter to quantize: its sites (several if tied), spec, block dims and training schedule."""

    places: tuple[StateSite, ...]
    spec: QuantizationSpec
    block_size: tuple[int, ...]
    schedule: QATSchedule | None = None


@frozen(eq=False)
class StatePlan:
    """The plan for all parameters of a model.

    Attributes:
        weights: the parameters to quantize.
        sites: all parameters, as configs address them.
        skipped: the parameters that the config selects but that are not quantized.
    """

    weights: tuple[PlannedWeight, ...]
    sites: tuple[OpSite, ...]
    skipped: tuple[SkippedWeight, ...]


def plan_weights(
    model: nn.Module, recording: Recording, resolver: ConfigResolver, *, leave_indivisible: bool | None
) -> StatePlan:
    """Resolve the config for the parameters of `model`, using a recorded run.

    Weights that do not divide into blocks are treated as `Quantizer.prepare` says.

    Raises:
        QuantizationError: naming the weights that cannot be divided as the config says, or one that is not finite.
    """
    plan = planning.plan_weights(model, resolver, Taken.FACTORS, recording)
    weights: list[PlannedWeight] = []
    uncut: list[UncutWeight] = []
    for each in plan.weights:
        try:
            block = _block(each.chosen, each.spec.granularity)
        except (BlockSizeError, AxisError) as error:
            uncut.append(UncutWeight(each.name, error, each.is_specific))
            continue
        require_finite(each.chosen.parameter, each.name)
        schedule = resolver.training_schedule(each.chosen.site.module_stack)
        weights.append(PlannedWeight(each.places, each.spec, block, schedule))
    refused = Indivisible.of_blocks(leave_indivisible, others=bool(weights)).refused(uncut)
    if refused:
        raise QuantizationError(cannot_be_cut(refused))
    return StatePlan(tuple(weights), plan.sites, (*plan.skipped, *(each.record for each in uncut)))


def _block(place: StateSite, granularity: Granularity) -> tuple[int, ...]:
    """Return the block dims along the axes of the parameter, which the op may read in another order.

    A granularity names the axes as a known op reads them; for other ops, those of the parameter.
    """
    shape, reader, reading = tuple(place.parameter.shape), place.reader, place.reading
    operand = "weight" if reading is None else reading.operand
    family = place.family
    axes = operand_axes(family, {"input": "self"}.get(operand, operand))
    if isinstance(place.module, nn.RNNBase | nn.RNNCellBase):
        axes = (-2, -1)
    elif family == "einsum" and reader is not None and reading is not None:
        axes = einsum_axes(reader.equation, int(reading.name.rpartition("_")[2]))
    order = None if reading is None else _order(place.parameter, reading)
    names_parameter_axes = axes is None and not has_default_axis(family)
    if order is None or order == tuple(range(len(shape))) or names_parameter_axes:
        return weight_block_of(family, shape, granularity, place.qualified_name, axes)
    assert reading is not None
    block = weight_block_of(family, reading.shape, granularity, place.qualified_name, axes)
    return tuple(size for _, size in sorted(zip(order, block, strict=True))) if block else ()


def _order(parameter: Tensor, reading: TensorUse) -> tuple[int, ...] | None:
    """Map each axis of the tensor read to an axis of the parameter, or return None if it is not a permutation."""
    axes = list(zip(parameter.shape, parameter.stride(), strict=True))
    wanted: Sequence[tuple[int, int]] = list(zip(reading.shape, reading.stride, strict=False))
    if sorted(axes) != sorted(wanted) or len(set(axes)) < len(axes):
        return None
    return tuple(axes.index(axis) for axis in wanted)
