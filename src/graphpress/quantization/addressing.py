"""Parts of a prepared model that a user means by naming a submodule of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import nn

from graphpress.ir.errors import GraphpressError

P = TypeVar("P")


class NoSuchPartError(GraphpressError, ValueError):
    """A submodule that holds nothing of what was to be switched."""


def parts_for(
    prepared: nn.Module, module: nn.Module | None, find: Callable[[nn.Module], Sequence[P]], what: str
) -> Sequence[P]:
    """The parts that `find` gives for `module`, or for the whole model where it is None.

    In a prepared graph, the module at the path of one of the user's modules holds its parameters only. It stands for
    the parts that were made for that module and for those inside it, which say so by their `module_paths`.

    Raises:
        NoSuchPartError: when `module` has none; `what` says of what.
    """
    if module is None:
        return find(prepared)
    found = {id(part): part for part in find(module)}
    paths = [path for path, inner in prepared.named_modules(remove_duplicate=False) if inner is module]
    for part in find(prepared):
        own: tuple[str, ...] = getattr(part, "module_paths", ())
        if any(_is_within(inner, path) for inner in own for path in paths):
            found[id(part)] = part
    if not found:
        where = f"{paths[0]!r} of the prepared model" if paths else f"this {type(module).__name__}"
        hint = "" if paths else "; it takes a submodule of the prepared model, or nothing"
        raise NoSuchPartError(f"{where} has no {what}{hint}")
    return list(found.values())


def _is_within(path: str, other: str) -> bool:
    return not other or path == other or path.startswith(f"{other}.")
