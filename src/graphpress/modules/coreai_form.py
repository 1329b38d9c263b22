"""Compressed parameters in packed form, which `torch.export` and the Core AI converter preserve.

A parameter is expanded by the same lowered ops that the passes insert into a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

import attrs
import torch
from attrs import define, frozen
from torch import Tensor, nn

from graphpress.backends.coreai import register
from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.ir.graph import Constant, Graph, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.modules.expressions import Step, compute, steps_to
from graphpress.modules.forms import ParameterForm, set_form
from graphpress.modules.mapping import Mapped
from graphpress.modules.remembering import Remembered, outside_inference
from graphpress.modules.surgery import F, FakeCompressed, Placed, copied, put
from graphpress.passes.analysis.facts import QUANTIZERS_CONVERTED
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.weights import StoredWeight

KEPT, _MASK = "nonzero_data", "mask"


def stored_for_coreai(
    prepared: nn.Module, kind: type[FakeCompressed], mmap_dir: str | PathLike[str] | None = None
) -> nn.Module:
    """Copy `prepared` and store its parameters that are compressed by forms of this kind.

    Raises:
        MissingDependencyError: if the Core AI converter is not installed.
        LoweringError: for something Core AI cannot store.
    """
    register()
    model, places = copied(prepared, kind)
    store(places, mmap_dir)
    return model


def store(places: Sequence[Placed[F]], mmap_dir: str | PathLike[str] | None = None) -> None:
    """Replace fake-compressed parameters by their stored parts, which tied parameters share."""
    mapped = Mapped(mmap_dir)
    made: dict[int, StoredParts] = {}
    for place in places:
        parameter = place.parameter
        if id(parameter) not in made:
            weight = place.form.stored(place.module)
            parts = _plain(parameter) if weight is None else parts_of(weight, place.name, parameter.requires_grad)
            made[id(parameter)] = parts.mapped(mapped, place.name)
        place.form.take_out(place.module)
        made[id(parameter)].put_into(place.module, place.form.name)


@define(eq=False, slots=False)
class StoredParameter(ParameterForm):
    """A parameter that Core AI ops expand from stored parts.

    Attributes:
        steps: the ops, whose arguments are the parts.
        parts: names of the buffers and parameters in the module, by role, such as ``weight_lut`` for ``lut``.
        bits: stored bits per element of each part, by role; tensors may hold elements in more.
    """

    steps: tuple[Step, ...]
    parts: Mapping[str, str]
    bits: Mapping[str, int]
    _dense: Remembered[Tensor] = attrs.field(factory=Remembered, init=False, repr=False)

    def value(self, module: nn.Module) -> Tensor:
        """Return the expanded parameter, cached while the parts are unchanged, except in traces."""
        tensors = self.tensors(module)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return compute(self.steps, tensors)
        return self._dense.get(tensors, lambda: outside_inference(lambda: compute(self.steps, tensors)))

    def tensors(self, module: nn.Module) -> list[Tensor]:
        """Return the parts, in order."""
        return [getattr(module, name) for name in self.parts.values()]

    @property
    def is_pruned_only(self) -> bool:
        """True if the parts are only kept floats and a mask."""
        return set(self.parts) == {KEPT, _MASK}


@frozen(eq=False)
class StoredParts:
    """The tensors and steps that replace a parameter.

    Attributes:
        tensors: parameters and buffers by role, the suffix of their names.
        steps: expand the parameter from the tensors; empty if the parameter is the only tensor.
        bits: stored bits per element of each tensor, which may hold elements in more.
    """

    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...] = ()
    bits: Mapping[str, int] = attrs.field(factory=dict)

    def mapped(self, mapped: Mapped, name: str) -> StoredParts:
        """Return these parts with the tensors in files; `name` is the parameter's name in the model."""
        return attrs.evolve(self, tensors={role: mapped(_joined(name, role), t) for role, t in self.tensors.items()})

    def put_into(self, module: nn.Module, name: str) -> None:
        """Register the parts in `module` as the parameter `name`, which must be unused."""
        parts = {role: _free_name(module, _joined(name, role)) for role in self.tensors}
        put(module, {parts[role]: tensor for role, tensor in self.tensors.items()})
        if self.steps:
            set_form(module, name, StoredParameter(self.steps, parts, self.bits))


_LOWERING = Pipeline(LowerToCoreai(), assume=[QUANTIZERS_CONVERTED])


def parts_of(weight: StoredWeight, name: str, requires_grad: bool = False) -> StoredParts:
    """Return the parts that Core AI stores of a weight; `name` is its name in the model.

    Kept float elements are a parameter with this `requires_grad`; all other parts are buffers.

    Raises:
        LoweringError: for something Core AI cannot store.
    """
    graph = Graph(name)
    graph.add_output(weight.expand(name, None, Rewriter(graph)))
    graph = Runner().run(graph, _LOWERING, in_place=True).graph
    value = graph.outputs[0].value
    assert value is not None
    if value.constant is not None:
        return StoredParts({"": nn.Parameter(value.constant.tensor.detach(), requires_grad=False)})
    arguments: list[Value] = []
    steps = steps_to(value, arguments, Step.of)
    roles = {id(read): _role(operand) for node in graph.nodes for operand, _, read in node.operand_values()}
    constants = {roles[id(argument)]: argument.constant for argument in arguments if argument.constant is not None}
    tensors = {role: _held(role, constant, requires_grad) for role, constant in constants.items()}
    return StoredParts(tensors, steps, {role: constant.type.dtype.bits for role, constant in constants.items()})


def _role(operand: str) -> str:
    return "codes" if operand == "input" else operand


def _held(role: str, constant: Constant, requires_grad: bool) -> Tensor:
    tensor, dtype = constant.tensor.detach(), constant.type.dtype
    is_kept_float = role == KEPT and dtype.is_floating and dtype.bits >= 16
    return nn.Parameter(tensor, requires_grad=requires_grad) if is_kept_float else tensor


def _plain(parameter: nn.Parameter) -> StoredParts:
    """Return the parts of an uncompressed parameter: a clone, which is not shared with the prepared model."""
    return StoredParts({"": nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)})


def _joined(name: str, role: str) -> str:
    return f"{name}_{role}" if role else name


def _free_name(module: nn.Module, name: str) -> str:
    """Return `name`, or a variant of it if the user's module already has that name."""
    while hasattr(module, name):
        name += "_"
    return name
