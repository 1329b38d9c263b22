"""Life cycle of fake-compressed parameters: install, find, copy and remove.

Each compressor of modules defines a `FakeCompressed` form. The life cycle is the same for all:

1. `install`: a prepared module reads its float parameter through the form, with extra tensors as buffers.
2. `placed` finds the forms; `copied` copies the model for a backend, without the floats.
3. `take_out` removes the form; the stored form of a backend replaces it (`coreai_form`, `metadata_form`).
4. `restoring` converts stored forms for the next compressor.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from attrs import define, frozen
from torch import Tensor, nn

from graphpress.compressor import forget_preparation
from graphpress.copying import copy_of
from graphpress.ir.errors import GraphpressError
from graphpress.modules.forms import ParameterForm, drop_form, forms_of, set_form
from graphpress.modules.masks import mask_beside
from graphpress.modules.sites import StateSite
from graphpress.modules.states import set_initial_states
from graphpress.passes.weights import StoredWeight


@define(eq=False, slots=False)
class FakeCompressed(ParameterForm):
    """A float parameter that is read as its compressed value.

    Attributes:
        name: the parameter's name in its module.
    """

    name: str

    def parameter(self, module: nn.Module) -> nn.Parameter:
        """Return the float parameter."""
        parameter = module._parameters[self.name]
        assert parameter is not None
        return parameter

    def mask(self, module: nn.Module) -> Tensor | None:
        """Return the mask of a parameter that was pruned before, or None."""
        return mask_beside(module, self.name)

    @abstractmethod
    def stored(self, module: nn.Module) -> StoredWeight | None:
        """Return the stored weight, or None if its compression parameters are unknown and it remains a float."""

    @abstractmethod
    def beside(self, module: nn.Module) -> Mapping[str, Tensor]:
        """Return the extra parameters and buffers of the form, by their names in the module."""

    def settle(self, module: nn.Module) -> None:
        """Update the extra tensors of the form."""

    def take_out(self, module: nn.Module) -> None:
        """Remove the float parameter and the extra tensors of the form from `module`."""
        beside = list(self.beside(module))
        drop_form(module, self.name)
        for name in (self.name, *beside):
            module._parameters.pop(name, None)
            module._buffers.pop(name, None)


F = TypeVar("F", bound=FakeCompressed)


@frozen(eq=False)
class Placed(Generic[F]):
    """A compressed parameter of a model, with its module, the module's path and the form."""

    path: str
    module: nn.Module
    form: F

    @property
    def name(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.form.name}" if self.path else self.form.name

    @property
    def parameter(self) -> nn.Parameter:
        """The float parameter; tied parameters are one object."""
        return self.form.parameter(self.module)


def placed(model: nn.Module, kind: type[F]) -> list[Placed[F]]:
    """Return every parameter of a prepared `model` that is compressed by a form of this kind."""
    return [
        Placed(path, module, form)
        for path, module in model.named_modules()
        for form in forms_of(module).values()
        if isinstance(form, kind)
    ]


def once(places: Sequence[Placed[F]]) -> list[Placed[F]]:
    """Return the places without repeated places of tied parameters."""
    return list({id(each.parameter): each for each in reversed(places)}.values())[::-1]


def install(site: StateSite, form: FakeCompressed, beside: Mapping[str, Tensor], error: type[GraphpressError]) -> None:
    """Make the module of `site` read its parameter through `form`, and register the extra tensors `beside` by name.

    Raises:
        GraphpressError: of the class `error`, if the module already uses one of these names.
    """
    for name, tensor in beside.items():
        has_it = tensor is site.module._buffers.get(name) or tensor is site.module._parameters.get(name)
        if hasattr(site.module, name) and not has_it:
            part = name.removeprefix(f"{form.name}_")
            raise error(f"module {site.path!r} already has an attribute {name!r}, the name of the {part}")
    put(site.module, beside)
    set_form(site.module, form.name, form)


def put(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Register tensors in `module`: parameters as such, others as persistent buffers."""
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            module._parameters[name] = tensor
        else:
            module._buffers[name] = tensor
            module._non_persistent_buffers_set.discard(name)


def copied(prepared: nn.Module, kind: type[F]) -> tuple[nn.Module, list[Placed[F]]]:
    """Copy `prepared` in eval mode without the floats of compressed parameters, and return these parameters, too.

    States have their initial values.
    """
    floats: dict[int, Tensor] = {}
    for each in placed(prepared, kind):
        each.form.settle(each.module)
        floats[id(each.parameter)] = each.parameter
    model = copy_of(prepared, GraphpressError, shared=floats.values())
    set_initial_states(model)
    forget_preparation(model)
    for parameter in model.parameters():
        if id(parameter) not in floats:
            parameter.grad = None
    return model.eval(), placed(model, kind)
