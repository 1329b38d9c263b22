"""One run of a model at a stand-in batch, on tensors that have shapes and no data; every call of ATen is recorded."""

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
from graphpress.ir.torch.capture import left_as_found
from graphpress.ir.torch.generalization.affine import NotProven, Samples
from graphpress.ir.torch.generalization.extents import AnsweringSizes, Extent, Run
from graphpress.ir.torch.generalization.rules import follows

# More calls than this, for one node of the graph, are a loop over the batch.
_CALLS_PER_NODE = 8


@frozen(eq=False)
class Call:
    """One call: the arguments by name, and the results with the shapes they had."""

    op: OpDef
    bound: Mapping[str, Any]
    results: tuple[torch.Tensor, ...]

    @property
    def written(self) -> list[torch.Tensor]:
        """The tensors that the call writes to."""
        if not isinstance(self.op.target, torch._ops.OpOverload) or not self.op.target._schema.is_mutable:
            return []
        arguments = self.op.target._schema.arguments
        names = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        return [tensor for name in names for tensor in pytree.tree_leaves(self.bound.get(name)) if tensor is not None]


@frozen(eq=False)
class Witness:
    """What a run did: the leaves of its arguments and results, and the calls between."""

    samples: Samples
    asked: bool
    leaves: list[Any]
    calls: list[Call]
    results: list[Any]


def run_at(
    module: torch.nn.Module, arguments: tuple[Any, ...], symbols: Sequence[str | None], samples: Samples, nodes: int
) -> Witness:
    """Run `module` with the first extents of its arguments at stand-ins.

    Args:
        module: the model; it is left as it was, and runs in eval mode.
        arguments: its positional arguments.
        symbols: for each leaf of the arguments, the symbol that its first extent is, if any.
        samples: the stand-ins of the symbols.
        nodes: how many nodes the graph of the model has.

    Raises:
        NotProven: when the run depends on the batch, or calls something that may.
        Clash: when an op cannot have the batches apart, or one of them other than it was.
    """
    if any(isinstance(submodule, torch.jit.ScriptModule) for submodule in module.modules()):
        raise NotProven("the model is compiled in part, and asks nobody for sizes")
    run = Run(samples)
    recorder = _Recorder(run, _CALLS_PER_NODE * nodes + 100)
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    flat, structure = pytree.tree_flatten(arguments)
    with left_as_found(module), torch.inference_mode(), _failures_unlogged(), torch.compiler.set_stance("force_eager"):
        with fake_mode:
            leaves = [_stand_in(leaf, symbol, samples) for leaf, symbol in zip(flat, symbols, strict=True)]
        with fake_mode, recorder, AnsweringSizes(run):
            try:
                returned = module(*pytree.tree_unflatten(leaves, structure))
            except Exception as error:
                raise run.failure or NotProven(f"the model fails at another batch: {error}", asked=run.asked) from error
    if run.failure is not None:
        raise run.failure
    results = pytree.tree_leaves(returned)
    if any(isinstance(result, Extent) for result in results):
        raise NotProven("the model returns the size of its batch", asked=True)
    return Witness(samples, run.asked, leaves, recorder.calls, results)


@contextmanager
def _failures_unlogged() -> Iterator[None]:
    """torch logs every op that fails on tensors without data. Here that is an answer."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _stand_in(leaf: Any, symbol: str | None, samples: Samples) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    if type(leaf) not in (torch.Tensor, torch.nn.Parameter) or leaf.layout is not torch.strided:
        raise NotProven(f"an input is a {type(leaf).__name__} of layout {leaf.layout}")
    shape, strides = list(leaf.shape), list(leaf.stride())
    if symbol is not None:
        # One element of the batch after the other, each laid out as in the example.
        element = max((extent * stride for extent, stride in zip(shape[1:], strides[1:], strict=True)), default=1)
        if shape[0] > 1 and strides[0] != element:
            raise NotProven("an input does not hold one element of its batch after the other")
        shape[0], strides[0] = samples.stand_ins[symbol], element
    return torch.empty_strided(shape, strides, dtype=leaf.dtype, device=leaf.device)


class _Recorder(TorchDispatchMode):
    """Records calls, and ends the run at the first whose results may not follow the batch.

    In inference mode composite ops arrive whole (`linear`, `layer_norm`), as torch.export records them.
    """

    def __init__(self, run: Run, most: int):
        super().__init__()
        self.run = run
        self.most = most
        self.calls: list[Call] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and record; see the class."""
        if not isinstance(function, torch._ops.OpOverload):
            self.run.refuse(f"calls {function}, which has graphs of its own")
        if function.namespace == "prim":  # the device of a tensor
            return function(*args, **(kwargs or {}))
        if len(self.calls) >= self.most:
            self.run.refuse("calls torch more often at a larger batch")
        try:
            op = op_of_target(function)
        except OpError as error:
            self.run.refuse(f"calls {function}: {error}")
        bound = op.bind(args, kwargs or {})
        symbolic = [tensor for tensor in pytree.tree_leaves(list(bound.values())) if self._depends(tensor)]
        if symbolic and op.short_name in ("unbind", "split", "chunk", "tensor_split"):
            self._check(op, bound, ())  # there might be as many results as the batch is large
        try:
            result = function(*args, **(kwargs or {}))
        except Exception as error:
            self.run.explain(op.name, symbolic, error)
        results = tuple(result) if isinstance(result, list | tuple) else () if result is None else (result,)
        if not all(isinstance(item, torch.Tensor) for item in results):
            self.run.refuse(f"calls {op.name}, which returns other things than tensors")
        if torch.Tag.inplace_view in function.tags and op.short_name != "detach_":
            self.run.refuse(f"calls {op.name}, which changes a shape in place")
        if symbolic:
            self._check(op, bound, results)
        elif any(map(self._depends, results)):
            self.run.refuse(f"calls {op.name}, whose result depends on the batch and its operands do not")
        self.calls.append(Call(op, bound, results))
        return result

    def _check(self, op: OpDef, bound: Mapping[str, Any], results: tuple[torch.Tensor, ...]) -> None:
        if not follows(op, bound, results, self._axes):
            self.run.refuse(f"calls {op.name}, whose result may follow the batch in another way at another batch")

    def _depends(self, argument: Any) -> bool:
        limit = 2 * self.run.samples.largest
        if isinstance(argument, torch.Tensor):
            return any(extent > limit for extent in argument.shape)
        return type(argument) is int and limit < abs(argument) < 2**62

    def _axes(self, tensor: torch.Tensor) -> tuple[int, ...]:
        limit = 2 * self.run.samples.largest
        return tuple(axis for axis, extent in enumerate(tensor.shape) if extent > limit)
