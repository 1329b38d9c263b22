"""Run of a model at a sample batch size on tensors without data, with every ATen call recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from attrs import frozen
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from graphpress.ir.ops import OpDef, OpError, op_of_target
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.capture import state_restored
from graphpress.ir.torch.generalization.affine import NotProven, Samples
from graphpress.ir.torch.generalization.dims import BatchDim, Run, SymbolicSizes
from graphpress.ir.torch.generalization.rules import agrees, follows

# More calls than this per node of the graph indicate a loop over the batch.
_CALLS_PER_NODE = 8


@frozen(eq=False)
class Call:
    """One call: arguments by name, and results with their shapes at the time."""

    op: OpDef
    bound: Mapping[str, Any]
    results: tuple[torch.Tensor, ...]

    @property
    def written(self) -> list[torch.Tensor]:
        """Return the tensors that the call writes to."""
        if not isinstance(self.op.target, torch._ops.OpOverload) or not self.op.target._schema.is_mutable:
            return []
        arguments = self.op.target._schema.arguments
        names = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        return [tensor for name in names for tensor in pytree.tree_leaves(self.bound.get(name)) if tensor is not None]


@frozen(eq=False)
class Trace:
    """A recorded run: the leaves of arguments and results, and the calls."""

    samples: Samples
    reads_batch: bool
    leaves: list[Any]
    calls: list[Call]
    results: list[Any]


def trace_at(
    module: torch.nn.Module, arguments: Arguments, symbols: Sequence[str | None], samples: Samples, nodes: int
) -> Trace:
    """Run `module` with the first dims of its arguments at sample batch sizes.

    Args:
        module: the model; it runs in eval mode and is restored.
        arguments: its arguments.
        symbols: the symbol of the first dim of each argument leaf, if any.
        samples: the sample batch size of each symbol.
        nodes: the number of nodes in the graph of the model.

    Raises:
        NotProven: if the run depends on the batch, or calls an op that may.
        Clash: if an op requires equal batch sizes, or the example's batch size.
    """
    if any(isinstance(submodule, torch.jit.ScriptModule) for submodule in module.modules()):
        raise NotProven("the model is partly compiled, so that its reads of sizes cannot be observed")
    run = Run(samples)
    recorder = _Recorder(run, _CALLS_PER_NODE * nodes + 100)
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    with state_restored(module), torch.inference_mode(), _failures_silenced(), torch.compiler.set_stance("force_eager"):
        with fake_mode:
            leaves = [
                _sample_tensor(leaf, symbol, samples) for leaf, symbol in zip(arguments.leaves, symbols, strict=True)
            ]
        with fake_mode, recorder, SymbolicSizes(run), _as_in_export():
            try:
                returned = arguments.with_leaves(leaves).call(module)
            except Exception as error:
                raise run.failure or NotProven(
                    f"the model fails at another batch size: {error}", reads_batch=run.reads_batch
                ) from error
    if run.failure is not None:
        raise run.failure
    results = pytree.tree_leaves(returned)
    if any(isinstance(result, BatchDim) for result in results):
        raise NotProven("the model returns the size of its batch", reads_batch=True)
    return Trace(samples, run.reads_batch, leaves, recorder.calls, results)


@contextmanager
def _as_in_export() -> Iterator[None]:
    """Answer `torch.compiler.is_compiling` and `is_exporting` as torch.export does, so that models take that path."""
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    before = {flag: getattr(torch.compiler, flag) for flag in flags if hasattr(torch.compiler, flag)}
    try:
        for flag in before:
            setattr(torch.compiler, flag, True)
        yield
    finally:
        for flag, value in before.items():
            setattr(torch.compiler, flag, value)


@contextmanager
def _failures_silenced() -> Iterator[None]:
    """Suppress torch's log of ops that fail on tensors without data; failures are expected here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _sample_tensor(leaf: Any, symbol: str | None, samples: Samples) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    if type(leaf) not in (torch.Tensor, torch.nn.Parameter) or leaf.layout is not torch.strided:
        raise NotProven(f"an input is a {type(leaf).__name__} of layout {leaf.layout}")
    shape, strides = list(leaf.shape), list(leaf.stride())
    if symbol is not None:
        # The elements of the batch are contiguous, each laid out as in the example.
        element = max((size * stride for size, stride in zip(shape[1:], strides[1:], strict=True)), default=1)
        if shape[0] > 1 and strides[0] != element:
            raise NotProven("the batch is not the outermost dim of an input in memory")
        shape[0], strides[0] = samples.run_sizes[symbol], element
    return torch.empty_strided(shape, strides, dtype=leaf.dtype, device=leaf.device)


class _Recorder(TorchDispatchMode):
    """Records calls, and ends the run at the first call whose results may not depend on the batch uniformly.

    In inference mode, composite ops are recorded as one call (`linear`, `layer_norm`), as in torch.export.
    """

    def __init__(self, run: Run, most: int):
        super().__init__()
        self.run = run
        self.most = most
        self.calls: list[Call] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and record `function`; see the class."""
        if not isinstance(function, torch._ops.OpOverload):
            self.run.refuse(f"calls {function}, which has nested graphs")
        if function.namespace == "prim":  # the device of a tensor
            return function(*args, **(kwargs or {}))
        if len(self.calls) >= self.most:
            self.run.refuse("makes more torch calls at a larger batch size")
        try:
            op = op_of_target(function)
        except OpError as error:
            self.run.refuse(f"calls {function}: {error}")
        bound = op.bind(args, kwargs or {})
        symbolic = [tensor for tensor in pytree.tree_leaves(list(bound.values())) if self._depends(tensor)]
        if symbolic and op.short_name in ("unbind", "split", "chunk", "tensor_split"):
            # Checked first, because there might be as many results as the batch is large.
            self._check(follows(op, bound, (), self._axes), op)
        try:
            result = function(*args, **(kwargs or {}))
        except Exception as error:
            self.run.explain(op.name, list(bound.values()), error)
        results = tuple(result) if isinstance(result, list | tuple) else () if result is None else (result,)
        if not all(isinstance(item, torch.Tensor) for item in results):
            self.run.refuse(f"calls {op.name}, which returns non-tensors")
        if torch.Tag.inplace_view in function.tags and op.short_name != "detach_":
            self.run.refuse(f"calls {op.name}, which changes a shape in place")
        if symbolic:
            regular = follows(op, bound, results, self._axes)
            self._check(regular or agrees(function, args, kwargs or {}, results, self.run.samples), op)
        elif any(map(self._depends, results)):
            self.run.refuse(f"calls {op.name}, whose result depends on the batch although its operands do not")
        self.calls.append(Call(op, bound, results))
        return result

    def _check(self, regular: bool, op: OpDef) -> None:
        if not regular:
            self.run.refuse(f"calls {op.name}, whose result dims may depend on the batch size irregularly")

    def _depends(self, argument: Any) -> bool:
        limit = 2 * self.run.samples.largest
        if isinstance(argument, torch.Tensor):
            return any(size > limit for size in argument.shape)
        return type(argument) is int and limit < abs(argument) < 2**62

    def _axes(self, tensor: torch.Tensor) -> tuple[int, ...]:
        limit = 2 * self.run.samples.largest
        return tuple(axis for axis, size in enumerate(tensor.shape) if size > limit)
