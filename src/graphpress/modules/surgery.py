"""Compressed parameters of modules: put them in, find them again, copy the model that has them, take them out.

A compressor of modules contributes a `FakeCompressed` form; the life of such a parameter is the same for all:

1. `install`: a prepared module reads its float parameter through the form; what that takes lies beside the parameter.
2. `placed` finds the forms, `copied` copies the model for a backend without the floats.
3. `take_out` leaves nothing of the form; what a backend stores comes in its place (`coreai_form`, `metadata_form`).
4. `restoring` brings that back to what the next compressor works on.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from attrs import define, frozen
from torch import Tensor, nn

from graphpress.compressor import stop_counting
from graphpress.ir.errors import GraphpressError
from graphpress.modules.forms import ParameterForm, drop_form, forms_of, set_form
from graphpress.modules.masks import mask_beside
from graphpress.modules.sites import StateSite
from graphpress.passes.weights import StoredWeight


@define(eq=False, slots=False)
class FakeCompressed(ParameterForm):
    """A float parameter that is read as its compressed self.

    Attributes:
        name: of the parameter in its module.
    """

    name: str

    def parameter(self, module: nn.Module) -> nn.Parameter:
        """The float parameter."""
        parameter = module._parameters[self.name]
        assert parameter is not None
        return parameter

    def mask(self, module: nn.Module) -> Tensor | None:
        """Where a parameter that was pruned before is kept; None for others."""
        return mask_beside(module, self.name)

    @abstractmethod
    def stored(self, module: nn.Module) -> StoredWeight | None:
        """What is stored of the parameter; None where nothing is known to compress it by, so that it stays a float."""

    @abstractmethod
    def beside(self, module: nn.Module) -> Mapping[str, Tensor]:
        """The parameters and buffers that the form has beside the float parameter, by their names in the module."""

    def settle(self, module: nn.Module) -> None:
        """Bring what lies beside the parameter up to date."""

    def take_out(self, module: nn.Module) -> None:
        """Take the float parameter, and all that the form has beside it, out of `module`."""
        beside = list(self.beside(module))
        drop_form(module, self.name)
        for name in (self.name, *beside):
            module._parameters.pop(name, None)
            module._buffers.pop(name, None)


F = TypeVar("F", bound=FakeCompressed)


@frozen(eq=False)
class Placed(Generic[F]):
    """A compressed parameter of a model: the path of its module, the module, and the form."""

    path: str
    module: nn.Module
    form: F

    @property
    def name(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.form.name}" if self.path else self.form.name

    @property
    def parameter(self) -> nn.Parameter:
        """The float parameter; tied ones are one object."""
        return self.form.parameter(self.module)


def placed(model: nn.Module, kind: type[F]) -> list[Placed[F]]:
    """Every parameter of a prepared `model` that is compressed by a form of this kind."""
    return [
        Placed(path, module, form)
        for path, module in model.named_modules()
        for form in forms_of(module).values()
        if isinstance(form, kind)
    ]


def once(places: Sequence[Placed[F]]) -> list[Placed[F]]:
    """Of tied parameters the first place."""
    return list({id(each.parameter): each for each in reversed(places)}.values())[::-1]


def install(site: StateSite, form: FakeCompressed, beside: Mapping[str, Tensor], error: type[GraphpressError]) -> None:
    """Let the module of `site` read its parameter by `form`, with what is `beside` it, by the names in the module.

    Raises:
        GraphpressError: of the class `error`, where the module has something else under one of these names.
    """
    for name, tensor in beside.items():
        has_it = tensor is site.module._buffers.get(name) or tensor is site.module._parameters.get(name)
        if hasattr(site.module, name) and not has_it:
            part = name.removeprefix(f"{form.name}_")
            raise error(f"module {site.path!r} has {name!r} already, where the {part} would go")
    put(site.module, beside)
    set_form(site.module, form.name, form)


def put(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give `module` these parameters, and other tensors as buffers that its `state_dict` has."""
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            module._parameters[name] = tensor
        else:
            module._buffers[name] = tensor
            module._non_persistent_buffers_set.discard(name)


def copied(prepared: nn.Module, kind: type[F]) -> tuple[nn.Module, list[Placed[F]]]:
    """A copy of `prepared` in eval mode, and its compressed parameters, whose floats are not copied."""
    floats = {}
    for each in placed(prepared, kind):
        each.form.settle(each.module)
        floats[id(each.parameter)] = each.parameter
    model = copy.deepcopy(prepared, dict(floats))
    stop_counting(model)
    for parameter in model.parameters():
        if id(parameter) not in floats:
            parameter.grad = None
    return model.eval(), placed(model, kind)
