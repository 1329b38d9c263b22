"""The parameters of an eagerly quantized model: which are quantized, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from attrs import define, frozen
from torch import Tensor, nn

from graphpress.eager import Recording, TensorUse
from graphpress.modules import planning
from graphpress.modules.forms import ParameterForm, forms_of, set_form
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
from graphpress.quantization.eager.quantized_module import HELD, held_by, holder_in
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, fake_quantizer
from graphpress.quantization.remembering import Remembered


@define(eq=False, slots=False)
class FakeQuantizedParameter(ParameterForm):
    """A float parameter read as its quantized self, by the fake-quantizer that the module holds under its name."""

    name: str
    _value: Remembered[Tensor] = attrs.field(factory=Remembered, init=False, repr=False)

    def value(self, module: nn.Module) -> Tensor:
        """The parameter, fake-quantized. In evaluation the result is kept until the parameter or a switch changes."""
        parameter = module._parameters[self.name]
        assert parameter is not None
        quantizer = self.quantizer(module)
        if module.training or (torch.is_grad_enabled() and parameter.requires_grad):
            quantized: Tensor = quantizer(parameter)
            return quantized
        switches = (quantizer.observer_enabled, quantizer.fake_quant_enabled)
        reads = (parameter, *quantizer.parameters(), *quantizer.buffers())  # scales may be learned
        return self._value.get(reads, lambda: _outside_inference(quantizer, parameter), switches)

    def quantizer(self, module: nn.Module) -> FakeQuantizeImplBase:
        """The fake-quantizer."""
        found = module._modules[HELD]._modules[self.name]  # type: ignore[union-attr]
        assert isinstance(found, FakeQuantizeImplBase)
        return found


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
        QuantizationError: naming the weights that cannot be cut as the config says.
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


def install(weight: PlannedWeight) -> None:
    """Let every module that has the parameter read it quantized, by one fake-quantizer."""
    quantizer = fake_quantizer(weight.places[0].qualified_name, weight.spec, weight.block_size, is_state=True)
    quantizer.schedule = weight.schedule
    for place in weight.places:
        holder_in(place.module).add(place.name, quantizer)
        set_form(place.module, place.name, FakeQuantizedParameter(place.name))


def quantized_parameters(model: nn.Module) -> list[tuple[str, nn.Module, FakeQuantizedParameter]]:
    """Path, module and form of every parameter that is read quantized."""
    return [
        (path, module, form)
        for path, module in model.named_modules()
        if held_by(module) is not None
        for form in forms_of(module).values()
        if isinstance(form, FakeQuantizedParameter)
    ]


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


def _outside_inference(quantizer: nn.Module, parameter: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # a kept tensor must serve in every mode
        quantized: Tensor = quantizer(parameter)
        return quantized
