"""Specs and configs as plain data: dictionaries, lists, strings, numbers, booleans and None."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from enum import Enum
from typing import Any, Self

import attrs
import torch

from graphpress.ir.plain import all_fields, to_plain
from graphpress.passes.config.arguments import Tagged, arguments
from graphpress.passes.config.components import component_key
from graphpress.passes.config.errors import SpecError


class PlainForm:
    """Base of specs, configs and their parts, which convert to and from plain data."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data: strings, numbers, lists, dictionaries, None. Nothing is shared with the object."""
        return plain(self)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> Self:
        """Read the plain form that `to_dict` writes; omitted fields have their defaults.

        Raises:
            SpecError: naming the path of the wrong entry, its value and what is accepted.
        """
        if not isinstance(config_dict, Mapping):
            raise SpecError(f"{config_dict!r} is not a dictionary of the arguments of {cls.__name__}")
        return cls(**arguments(config_dict, cls.__name__))

    def model_dump(self) -> dict[str, Any]:
        """The fields as plain data, which `model_validate` reads."""
        return plain(self)

    @classmethod
    def model_validate(cls, data: Any) -> Self:
        """Return `data` if it is of this class, else read it as plain data of the fields. Raises as `from_dict`."""
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise SpecError(f"{data!r} is not a {cls.__name__}, nor a dictionary of its arguments")
        return cls(**arguments(data, cls.__name__))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with the fields in `update` replaced; ``deep=True`` shares no part with this object.

        Raises:
            SpecError: for a field that does not exist, or an invalid value.
        """
        return attrs.evolve(copy.deepcopy(self) if deep else self, **dict(update or {}))


def plain(value: Any) -> Any:
    """The plain form of a spec, a config or a part of one. Nothing is shared with `value`.

    Constructors accept this form: ``type(value)(**plain(value)) == value`` for a class without a type tag.
    """
    return to_plain(value, _named, _tagged_fields)


def _named(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return component_key(value) if isinstance(value, type) else NotImplemented


def _tagged_fields(value: Any) -> dict[str, Any]:
    """The fields of an attrs object, after its type tag if it has one."""
    tag = {"type": value.type_name} if isinstance(value, Tagged) else {}
    return tag | all_fields(value)
