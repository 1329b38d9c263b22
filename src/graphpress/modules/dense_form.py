"""Compressed parameters as dense floats, for models that remain in torch."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from torch import nn

from graphpress.modules.mapping import Mapped
from graphpress.modules.surgery import F, FakeCompressed, Placed, copied
from graphpress.passes.weights import PrunedWeight, StoredWeight


def stored_dense(
    prepared: nn.Module, kind: type[FakeCompressed], mmap_dir: str | PathLike[str] | None = None
) -> nn.Module:
    """Copy `prepared` and store the values of its parameters that are compressed by forms of this kind."""
    model, places = copied(prepared, kind)
    store_dense(places, mmap_dir)
    return model


def store_dense(
    places: Sequence[Placed[F]], mmap_dir: str | PathLike[str] | None = None
) -> list[tuple[Placed[F], StoredWeight | None]]:
    """Replace fake-compressed parameters by floats, and return each place with the weight that was stored there.

    Tied parameters remain tied. Only pruned floats are trained further.
    """
    mapped = Mapped(mmap_dir)
    dense: dict[int, nn.Parameter] = {}
    stored: list[tuple[Placed[F], StoredWeight | None]] = []
    for place in places:
        name, module, floats = place.form.name, place.module, place.parameter
        weight = place.form.stored(module)
        place.form.take_out(module)
        if id(floats) not in dense:
            values = floats.detach().clone() if weight is None else weight.dense()
            learns = floats.requires_grad and (weight is None or isinstance(weight, PrunedWeight))
            dense[id(floats)] = nn.Parameter(mapped(place.name, values), requires_grad=learns)
        module._parameters[name] = dense[id(floats)]
        stored.append((place, weight))
    return stored
