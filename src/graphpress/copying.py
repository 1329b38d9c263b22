"""Copies of a user's model, and models without the wrappers of `torch.compile`."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from graphpress.ir.errors import GraphpressError

_WRAPPER = "torch._dynamo.eval_frame"
"""The module of the class of compiled modules, which is imported only by compiling."""


def copy_of(
    model: nn.Module, error: type[GraphpressError], instead: str = "", shared: Iterable[Tensor] = ()
) -> nn.Module:
    """Return a deep copy of `model`, without the wrappers of `torch.compile`.

    Tensors that hooks compute before each run, such as the weights of `torch.nn.utils.weight_norm`, are copied as data.

    Args:
        model: the model.
        error: the class of the error.
        instead: the end of its message, what to do instead.
        shared: parameters that the copy has in common with the model.

    Raises:
        GraphpressError: of the class `error`, if the model cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    computed = [each for each in _attributes(model) if isinstance(each, Tensor) and not each.is_leaf]
    memo |= {id(each): each.detach().clone() for each in computed}
    # About ten of each module, mostly for hooks, which take `deepcopy` longer than all the rest of it.
    memo |= {id(each): OrderedDict() for each in _attributes(model) if type(each) is OrderedDict and not each}
    try:
        return uncompiled(copy.deepcopy(model, memo))
    except Exception as reason:
        hint = f"; {instead}" if instead else ""
        raise error(f"{type(model).__name__} cannot be copied ({type(reason).__name__}: {reason}){hint}") from reason


def _attributes(model: nn.Module) -> Iterable[Any]:
    return (value for module in model.modules() for value in vars(module).values())


def uncompiled(model: nn.Module) -> nn.Module:
    """Return `model` with the modules that `torch.compile` wrapped in the place of the wrappers."""
    for module in model.modules():
        for name, child in module._modules.items():
            if child is not None and _is_wrapper(child):
                module._modules[name] = unwrapped(child)
    return unwrapped(model)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or `module` itself."""
    while _is_wrapper(module):
        module = module._modules["_orig_mod"]  # type: ignore[assignment]
    return module


def _is_wrapper(module: nn.Module) -> bool:
    return type(module).__module__ == _WRAPPER and "_orig_mod" in module._modules
