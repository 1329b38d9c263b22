"""Run saved assets with the Core AI runtime, called on torch tensors like a module."""

from __future__ import annotations

import atexit
import os
import weakref
from contextlib import AsyncExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from graphpress.backends.coreai import arrays, background
from graphpress.backends.coreai.asset import FunctionInfo, TensorInfo, open_asset, read
from graphpress.backends.errors import ExecutionError, ModelInputError
from graphpress.ir.errors import suggestion


def load(path: str | PathLike[str], function: str = "main") -> LoadedModel:
    """Load one function of the asset at `path`, ready to be called.

    Raises:
        AssetError: when there is no asset, it is damaged, or it has no such function.
        ExecutionError: when the runtime cannot load it.
        MissingDependencyError: when the runtime is not installed.
    """
    return LoadedModel(path, function)


class LoadedModel:
    """A function of an asset, held open in the runtime.

    Call it with torch tensors, by position in the order of `signature.inputs` or by name; the result is a
    tensor, or a tuple of them when there are several. On Linux this is the reference runtime on the CPU.
    Use it as a context manager or `close` it to free its memory and files; garbage collection does too.

    States (buffers the model changes) start at zero and are kept from call to call in `states`, by name; copy
    initial values into those tensors before the first call.
    """

    def __init__(self, path: str | PathLike[str], function: str = "main") -> None:
        self.path = Path(path)
        self.signature: FunctionInfo = read(path).function(function)
        self.states: dict[str, torch.Tensor] = {
            state.name: torch.zeros([size or 1 for size in state.shape], dtype=state.dtype.torch_dtype)
            for state in self.signature.states
        }
        stack = AsyncExitStack()
        try:
            self._function = background.run(_entered(stack, path, function))
        except Exception as error:
            background.run(stack.aclose())
            raise ExecutionError(f"the Core AI runtime cannot load {path}: {error}") from error
        self._process = os.getpid()
        self._close = weakref.finalize(self, _close, stack, self._process)
        self._close.atexit = False
        _open.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run the function once.

        Raises:
            ModelInputError: when names, count, shapes or dtypes are not those of `signature.inputs`.
            ExecutionError: when the runtime fails, or the model is closed.
        """
        given = self._named(args, kwargs)
        inputs = {each.name: arrays.to_runtime(given[each.name], each) for each in self.signature.inputs}
        if not self._close.alive:
            raise ExecutionError(f"the model loaded from {self.path} is closed")
        if os.getpid() != self._process:
            raise ExecutionError(f"the model from {self.path} was loaded in another process: load it in this one")
        states = {each.name: arrays.to_runtime(self.states[each.name], each) for each in self.signature.states}
        try:
            results = background.run(self._function(inputs, states))
        except Exception as error:
            raise ExecutionError(f"the Core AI runtime failed on {self.path}: {error}") from error
        for name, state in states.items():
            self.states[name].copy_(arrays.to_torch(state))
        outputs = tuple(arrays.to_torch(results[each.name]) for each in self.signature.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def close(self) -> None:
        """Free the model's memory and files. Calling it again does nothing."""
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


_open: weakref.WeakSet[LoadedModel] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for model in list(_open):
        model.close()


async def _entered(stack: AsyncExitStack, path: str | PathLike[str], function: str) -> Any:
    model = await stack.enter_async_context(open_asset(path).executable())
    return model.load_function(function)


def _close(stack: AsyncExitStack, process: int) -> None:
    if os.getpid() == process:  # a forked child has neither the loop's thread nor a right to the files
        background.run(stack.aclose())


def _typed(tensor: TensorInfo) -> str:
    sizes = "x".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.dtype.value}[{sizes}]"
