"""The parameters of a module as configs address them: by module, by op, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from graphpress.compressed_module import plain_type
from graphpress.passes.configs import ModuleScope, OpSite
from graphpress.passes.configs.matching import canonical_op_type, qualified_name

_OPS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.Embedding, "embedding"),
    (nn.EmbeddingBag, "embedding_bag"),
    (nn.Bilinear, "bilinear"),
    (nn.MultiheadAttention, "linear"),
    (nn.LSTM, "lstm"),
    (nn.GRU, "gru"),
    (nn.RNN, "rnn"),
    (nn.LSTMCell, "lstm_cell"),
    (nn.GRUCell, "gru_cell"),
    (nn.RNNCell, "rnn_cell"),
    (nn.LayerNorm, "layer_norm"),
    (nn.GroupNorm, "group_norm"),
    (nn.modules.batchnorm._BatchNorm, "batch_norm"),
)

SUPPORTED_MODULES: tuple[type[nn.Module], ...] = tuple(kind for kind, op in _OPS if not op.endswith("norm"))
"""Modules whose weights are worth compressing."""

UNKNOWN_OP = "parameter"
"""Op type of a parameter that no op was seen to read."""


@frozen(eq=False)
class StateSite:
    """One parameter in one module.

    Attributes:
        module: that registers it.
        name: in the module.
        path: of the module.
        parameter: the tensor; tied parameters have several sites.
        site: the op that reads it, as a config addresses it.
    """

    module: nn.Module
    name: str
    path: str
    parameter: nn.Parameter
    site: OpSite

    @property
    def qualified_name(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.name}" if self.path else self.name


@frozen(eq=False)
class LayerSite:
    """A layer of a supported kind: module, path, and its op as a config addresses it."""

    module: nn.Module
    path: str
    site: OpSite


def state_sites(model: nn.Module, run: Callable[[], Any] | None = None) -> list[StateSite]:
    """Every floating parameter of `model`, tied ones at each place.

    The op of a parameter is known by the kind of its module. In modules of the user's own it is the first op that reads
    the parameter while `run` runs the model.
    """
    readers = {} if run is None else _watch(model, run)
    return list(_sites(model, readers))


def layer_sites(model: nn.Module) -> list[LayerSite]:
    """The supported modules of `model`, by the op each is."""
    modules = dict(model.named_modules())
    found = []
    for path, module in modules.items():
        if isinstance(module, SUPPORTED_MODULES):
            op, _ = _op(module, None, {})
            site = OpSite(f"{path}.{op}" if path else op, op, _stack(path, modules))
            found.append(LayerSite(module, path, site))
    return found


def module_scopes(model: nn.Module) -> list[ModuleScope]:
    """Every module of `model` as configs address it."""
    return [_scope(path, module) for path, module in model.named_modules(remove_duplicate=False)]


def _sites(model: nn.Module, readers: dict[int, tuple[str, int]]) -> Iterator[StateSite]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        owned = {name: p for name, p in module._parameters.items() if p is not None and p.is_floating_point()}
        if not owned:
            continue
        stack = _stack(path, modules)
        ops = {name: _op(module, parameter, readers) for name, parameter in owned.items()}
        calls = list(dict.fromkeys(ops.values()))
        states = {call: tuple(name for name in owned if ops[name] == call) for call in calls}
        for name, parameter in owned.items():
            call = ops[name]
            earlier = sum(other[0] == call[0] for other in calls[: calls.index(call)])
            op_name = call[0] if not earlier else f"{call[0]}_{earlier}"
            site = OpSite(f"{path}.{op_name}" if path else op_name, call[0], stack, states=states[call])
            yield StateSite(module, name, path, parameter, site)


def _stack(path: str, modules: dict[str, nn.Module]) -> tuple[ModuleScope, ...]:
    """The model, and every module on the way to `path`."""
    parts = path.split(".") if path else []
    paths = ["", *(".".join(parts[: end + 1]) for end in range(len(parts)))]
    return tuple(_scope(each, modules[each]) for each in paths if each in modules)


def _op(module: nn.Module, parameter: nn.Parameter | None, readers: dict[int, tuple[str, int]]) -> tuple[str, int]:
    """Op type, and the number of the call, which tells ops of one type in one module apart."""
    for kind, op in _OPS:
        if isinstance(module, kind):
            return op, 0
    return readers.get(id(parameter), (UNKNOWN_OP, 0))


def _scope(path: str, module: nn.Module) -> ModuleScope:
    cls = plain_type(module)
    names = [qualified_name(cls)]
    if cls.__module__.startswith("torch.nn."):  # torch has private subclasses of public layers
        public = (base for base in cls.__mro__[1:] if base.__module__.startswith("torch.nn.modules."))
        names += [qualified_name(base) for base in public if base is not nn.Module]
    return ModuleScope(path, tuple(names))


def _watch(model: nn.Module, run: Callable[[], Any]) -> dict[int, tuple[str, int]]:
    """The first op that reads each parameter: its type and the number of the call."""
    watcher = _Watcher({id(parameter) for parameter in model.parameters()})
    with watcher:
        run()
    return watcher.readers


class _Watcher(TorchFunctionMode):
    """Notes which functions are called with which parameters."""

    def __init__(self, parameters: set[int]) -> None:
        super().__init__()
        self.readers: dict[int, tuple[str, int]] = {}
        self._parameters = parameters
        self._calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._calls += 1
        for tensor in pytree.tree_leaves((args, kwargs)):
            if id(tensor) in self._parameters and id(tensor) not in self.readers and _computes(result, tensor):
                name = re.sub(r"^r?(?=matmul|add|mul|sub)", "", func.__name__.strip("_"))
                self.readers[id(tensor)] = canonical_op_type(name), self._calls
        return result


def _computes(result: Any, tensor: Tensor) -> bool:
    """True when `result` holds new tensors, not views of `tensor` or facts about it."""
    made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    storage = tensor.untyped_storage().data_ptr()
    return bool(made) and all(leaf.untyped_storage().data_ptr() != storage for leaf in made)
