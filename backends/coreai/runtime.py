"""Execution of saved assets in the Core AI runtime, on torch tensors."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils import _pytree as pytree

from graphpress.backends.coreai import ops
from graphpress.backends.coreai.asset import FunctionInfo, TensorInfo, open_asset, read
from graphpress.backends.errors import ExecutionError, ModelInputError
from graphpress.backends.saving import path_of
from graphpress.ir.dtypes import DType
from graphpress.ir.errors import suggestion

_Result = TypeVar("_Result")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `coroutine` on the background loop, and return its result or raise its exception."""
    return asyncio.run_coroutine_threadsafe(coroutine, _running_loop()).result()


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="graphpress-coreai", daemon=True).start()
        return _loop


_NARROWED = {torch.int64: torch.int32, torch.float64: torch.float32}
"""The converter narrows 64-bit types to 32 bits: int64 inputs of a torch model are int32 in its asset."""


def to_runtime(value: Any, declared: TensorInfo) -> Any:
    """Convert an input or state to the runtime's array for `declared`; Python numbers are scalars.

    Raises:
        ModelInputError: if the value is not a tensor of the declared shape and dtype.
    """
    if isinstance(value, (bool, int, float)):
        value = torch.tensor(value, dtype=declared.dtype.torch_dtype)
    if not isinstance(value, torch.Tensor):
        raise ModelInputError(f"input {declared.name!r} must be a torch tensor, got a {type(value).__name__}")
    tensor = _narrowed(value.detach().cpu(), declared)
    if tensor.dtype != declared.dtype.torch_dtype:
        raise ModelInputError(
            f"input {declared.name!r} is {value.dtype}, but this asset takes {declared.dtype.torch_dtype}"
        )
    expected = ["any" if size is None else size for size in declared.shape]
    fits = tensor.dim() == len(expected) and all(
        want in ("any", have) for want, have in zip(expected, tensor.shape, strict=True)
    )
    if not fits:
        raise ModelInputError(
            f"input {declared.name!r} has shape {list(tensor.shape)}, but this asset takes "
            f"[{', '.join(map(str, expected))}]"
        )
    return ops.require("coreai.runtime").NDArray(_to_numpy(tensor.contiguous()))


def to_torch(array: Any) -> torch.Tensor:
    """Copy the runtime's array to a tensor."""
    values = np.array(array.numpy(), order="C")  # np.ascontiguousarray would turn a scalar into a vector
    dtype = DType.of(array.dtype.replace("fn", "fnu") if "e8m0" in array.dtype else _torch_name(array.dtype))
    if dtype.torch_dtype in _VIEWS:
        return torch.from_numpy(values.view(_VIEWS[dtype.torch_dtype][1])).view(dtype.torch_dtype)
    return torch.from_numpy(values)


_VIEWS: dict[torch.dtype, tuple[torch.dtype, Any]] = {
    torch.bfloat16: (torch.int16, np.int16),
    torch.float8_e4m3fn: (torch.uint8, np.uint8),
    torch.float8_e5m2: (torch.uint8, np.uint8),
    torch.float8_e8m0fnu: (torch.uint8, np.uint8),
}
"""Types that numpy lacks, with integer types of the same size for their bits."""


def _narrowed(tensor: torch.Tensor, declared: TensorInfo) -> torch.Tensor:
    narrow = _NARROWED.get(tensor.dtype)
    if narrow is None or narrow != declared.dtype.torch_dtype:
        return tensor
    if narrow == torch.int32 and tensor.numel():
        low, high = (int(bound) for bound in tensor.aminmax())
        if low < declared.dtype.minimum or high > declared.dtype.maximum:
            raise ModelInputError(
                f"input {declared.name!r} holds {low} to {high}, but this asset takes it as 32-bit integers"
            )
    return tensor.to(narrow)


def _to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype not in _VIEWS:
        return tensor.numpy()
    name = DType.of(tensor.dtype).long_name
    return tensor.view(_VIEWS[tensor.dtype][0]).numpy().view(getattr(ops.require("ml_dtypes"), name))


def _torch_name(runtime_name: str) -> str:
    """Convert a runtime type name such as `float8e4m3fn` to torch's `float8_e4m3fn`."""
    return runtime_name.replace("float8e", "float8_e")


def load(path: str | PathLike[str], function: str = "main") -> LoadedModel:
    """Load one function of the asset at `path` for execution.

    Raises:
        AssetError: if there is no asset, it is damaged, or it has no such function.
        ExecutionError: if the runtime cannot load it.
        MissingDependencyError: if the runtime is not installed.
    """
    return LoadedModel(path, function)


class LoadedModel:
    """A function of an asset, loaded in the runtime.

    Call it with torch tensors, by position in the order of `signature.inputs` or by name; it returns a tensor, or a
    tuple of several. On Linux this is the reference runtime on the CPU. Use it as a context manager, or call `close`,
    to free its memory and files; garbage collection does so too.

    States (buffers that the model changes) are zero initially and persist between calls in `states`, by name; copy
    initial values into those tensors before the first call.
    """

    def __init__(self, path: str | PathLike[str], function: str = "main") -> None:
        self.path = path_of(path)
        self.signature: FunctionInfo = read(path).function(function)
        self.states: dict[str, torch.Tensor] = {
            state.name: torch.zeros([size or 1 for size in state.shape], dtype=state.dtype.torch_dtype)
            for state in self.signature.states
        }
        stack = AsyncExitStack()
        try:
            self._function = run(_entered(stack, path, function))
        except Exception as error:
            run(stack.aclose())
            raise ExecutionError(f"the Core AI runtime cannot load {path}: {error}") from error
        self._process = os.getpid()
        self._close = weakref.finalize(self, _close, stack, self._process)
        self._close.atexit = False
        _open.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run the function once.

        Raises:
            ModelInputError: if names, count, shapes or dtypes differ from `signature.inputs`.
            ExecutionError: if the runtime fails, or the model is closed.
        """
        given = self._named(args, kwargs)
        inputs = {each.name: to_runtime(given[each.name], each) for each in self.signature.inputs}
        if not self._close.alive:
            raise ExecutionError(f"the model loaded from {self.path} is closed")
        if os.getpid() != self._process:
            raise ExecutionError(f"the model from {self.path} was loaded in another process: load it in this one")
        states = {each.name: to_runtime(self.states[each.name], each) for each in self.signature.states}
        try:
            results = run(self._function(inputs, states))
        except Exception as error:
            raise ExecutionError(f"the Core AI runtime failed on {self.path}: {error}") from error
        for name, state in states.items():
            self.states[name].copy_(to_torch(state))
        outputs = tuple(to_torch(results[each.name]) for each in self.signature.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def close(self) -> None:
        """Free the model's memory and files; idempotent."""
        self._close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._close.alive else ", closed"
        inputs = ", ".join(map(_typed, self.signature.inputs))
        outputs = ", ".join(map(_typed, self.signature.outputs))
        return f"LoadedModel({str(self.path)!r}: ({inputs}) -> ({outputs}){state})"

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = [each.name for each in self.signature.inputs]
        if len(args) > len(names):
            raise ModelInputError(f"{self.path} takes {len(names)} inputs ({', '.join(names)}), got {len(args)}")
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names:
                raise ModelInputError(
                    f"{self.path} has no input {name!r}{suggestion(name, names)}; its inputs are {', '.join(names)}"
                )
            if name in given:
                raise ModelInputError(f"input {name!r} is given twice, by position and by name")
            given[name] = value
        if missing := [name for name in names if name not in given]:
            raise ModelInputError(f"{self.path} also needs {', '.join(missing)}; it takes {', '.join(names)}")
        return given


def run_flat(loaded: LoadedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Run a loaded asset on the arguments of its model, and return its outputs."""
    names = {each.name for each in loaded.signature.inputs}
    if set(kwargs) - names:  # the export flattens nested arguments
        args, kwargs = (*args, *kwargs.values()), {}
    leaves = [leaf for leaf in pytree.tree_leaves(args) if leaf is not None]
    result = loaded(*leaves, **kwargs)
    return list(result) if isinstance(result, tuple) else [result]


_open: weakref.WeakSet[LoadedModel] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for model in list(_open):
        model.close()


async def _entered(stack: AsyncExitStack, path: str | PathLike[str], function: str) -> Any:
    model = await stack.enter_async_context(open_asset(path).executable())
    return model.load_function(function)


def _close(stack: AsyncExitStack, process: int) -> None:
    if os.getpid() == process:  # a forked child has neither the loop's thread nor ownership of the files
        run(stack.aclose())


def _typed(tensor: TensorInfo) -> str:
    sizes = "x".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.dtype.value}[{sizes}]"
