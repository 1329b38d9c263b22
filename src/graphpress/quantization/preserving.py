"""What a prepared or finalized model keeps of the user's model beside its computation."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from graphpress.ir.errors import suggestion
from graphpress.passes.specs import SpecError
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase


def preserve_attributes(names: Iterable[str] | None, source: nn.Module, target: nn.Module) -> None:
    """Give `target` copies of attributes of `source`; methods are bound to `target`.

    Raises:
        SpecError: for a name that `source` does not have, or that `target` uses itself.
    """
    for place, name in enumerate(names or ()):
        path = f"preserved_attributes[{place}]"
        if not hasattr(source, name):
            known = [known for known in dir(source) if not known.startswith("_")]
            raise SpecError(f"the model has no attribute {name!r}{suggestion(name, known)}", path)
        if isinstance(target, type(source)) and hasattr(target, name):
            continue  # a copy of the model has what the model has
        value = getattr(source, name)
        if name in target._modules or name in target._parameters or name in target._buffers:
            continue  # it is there already, compressed
        if hasattr(type(target), name):
            raise SpecError(f"{name!r} is an attribute of every module; accepted: names of the model's own", path)
        is_method = isinstance(value, types.MethodType) and value.__self__ is source
        setattr(target, name, types.MethodType(value.__func__, target) if is_method else copy.deepcopy(value))


@contextmanager
def buffers_restored(module: nn.Module) -> Iterator[None]:
    """Give every buffer that is no quantizer's the values back that it had before, such as a cache in the model."""
    ours = {id(b) for m in module.modules() if isinstance(m, FakeQuantizeImplBase) for b in m.buffers()}
    kept = [(buffer, buffer._version, buffer.clone()) for buffer in module.buffers() if id(buffer) not in ours]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, version, values in kept:
                if buffer._version != version:
                    buffer.copy_(values)
