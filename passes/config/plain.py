"""Specs and configs as plain data: dictionaries, lists, strings, numbers, booleans and None."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import attrs
import torch

from graphpress.passes.config.arguments import Tagged
from graphpress.passes.config.components import component_key


def plain(value: Any) -> Any:
    """The plain form of a spec, a config, or anything one holds. Always fresh: nothing is shared with `value`.

    Constructors take this form back: ``type(value)(**plain(value)) == value`` for a class without a type tag.
    """
    if attrs.has(type(value)):
        return plain_object(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, type):
        return component_key(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def plain_object(value: Any) -> dict[str, Any]:
    """The fields of an attrs object as plain data, after its type tag if it has one."""
    tag = {"type": value.type_name} if isinstance(value, Tagged) else {}
    fields = {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value)) if field.init}
    return tag | fields
