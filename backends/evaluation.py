"""Evaluation of an exported program on the values of a file, and the deviations that rounding causes in it.

Where operators of the program have values in the file, evaluation goes on with these. Each operator then reads what it
reads in the file, and only its own rounding separates its result from the file's: a code that fell to the other side of
a tie is put back before the next operator reads it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from graphpress.backends import exporting
from graphpress.backends.errors import ModelInputError
from graphpress.backends.rounding import DRAWS, MARGIN, PerturbedRounding
from graphpress.ir.aten_traits import Trait, families_with

Tensors = Mapping[str, torch.Tensor]
Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
Quantize = Callable[..., torch.Tensor]
"""Computes quantizers as specified, from their operands."""

_COMPARISONS = families_with(Trait.COMPARISON)
_CASTS = {"to", "_to_copy"}
_ROUNDING = {"quantize", "round", "floor", "ceil", "trunc", "sign", "floor_divide", "remainder", "fmod"}
_SELECTING = {"topk", "sort", "argsort", "argmax", "argmin", "bucketize", "searchsorted"}
_UNINITIALIZED = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
_DISCONTINUOUS = _COMPARISONS | _ROUNDING | _SELECTING


class Evaluation(fx.Interpreter):
    """Evaluates a program with given values in place of the results of some of its operators.

    Attributes:
        computed: the tensor that each operator gave, before it was replaced, by name.
        read: the tensor that each discontinuous operator, such as a quantizer, read; of a comparison, the difference.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        given: Tensors,
        quantize: Quantize | None = None,
        ties: Ties | None = None,
    ) -> None:
        super().__init__(module)
        self.given, self._quantize, self._ties = given, quantize, ties
        self.computed: dict[str, torch.Tensor] = {}
        self.read: dict[str, torch.Tensor] = {}

    def evaluate(self, arguments: Arguments, rounding: PerturbedRounding | None = None) -> None:
        """Run the program on the user's inputs, with random rounding errors if given; its buffers stay as they are.

        Raises:
            ModelInputError: if it fails on these inputs.
        """
        graph: Any = self.module.graph
        args, kwargs = arguments
        try:
            names = graph._codegen.pytree_info.orig_args[len(args) :]
            inputs = graph._codegen.process_inputs(*args, *(kwargs[name] for name in names))
            with torch.no_grad(), exporting.unchanged(self.module), rounding or nullcontext():
                self.run(*inputs, enable_io_processing=False)
        except Exception as error:
            raise ModelInputError(
                f"the program does not run on these inputs: {type(error).__name__}: {exporting.head(error)}"
            ) from error

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run one operator; a quantizer by the function given for them.

        Torch has no kernel for codes of 4 bits, and rounds the quotients of 16-bit floats to 16 bits.
        """
        is_quantizer = isinstance(target, torch._ops.OpOverload) and target.name() == "coreai::quantize"
        if self._quantize is None or not is_quantizer:
            return super().call_function(target, args, kwargs)
        with _disable_current_modes():  # its formula is specified, and has no rounding errors to draw
            return self._quantize(*args, **kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, note its result, and return what the file has instead."""
        result = self._run_discontinuous(n) if is_discontinuous(n) else super().run_node(n)
        if n.op != "call_function" or not isinstance(result, torch.Tensor):
            return result
        if _family(n) in _UNINITIALIZED:  # files have zeros
            result.zero_()
        self.computed[n.name] = result.detach().clone()
        given = self.given.get(n.name)
        return result if given is None or given.shape != result.shape else given.to(result.dtype)

    def _run_discontinuous(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x = args[0]
        compared = args[1] if _family(n) in _COMPARISONS and isinstance(args[1], torch.Tensor) else None
        self.read[n.name] = (x if compared is None else x.float() - compared.float()).detach().clone()
        if self._ties is not None:
            args = (self._ties.moved(n.name, x), *args[1:])
        with self._set_current_node(n):
            return self.call_function(n.target, args, kwargs)


class Ties:
    """Moves what discontinuous operators read, so that values beside a tie fall to one of its sides.

    The first draw moves every value up, the second moves every value down, further draws move each either way.
    """

    def __init__(self, reach: Mapping[str, float], draw: int) -> None:
        self._reach, self._draw = reach, draw
        self._random = torch.Generator().manual_seed(draw)

    def moved(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return what the operator `name` reads instead of `x`."""
        reach = self._reach.get(name, 0.0)
        if not reach or not x.is_floating_point():
            return x
        signs = torch.randint(0, 2, x.shape, generator=self._random) * 2 - 1
        direction = signs.double() if self._draw > 1 else (1.0, -1.0)[self._draw]
        return (x.double() + reach * direction).to(x.dtype)


def is_discontinuous(node: fx.Node) -> bool:
    """Return True for operators whose results jump where their first operand moves by a rounding error."""
    if not node.args or not _is_tensor(node.args[0]):
        return False
    return _family(node) in _DISCONTINUOUS or (_family(node) in _CASTS and not node.meta["val"].is_floating_point())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def _family(node: fx.Node) -> str:
    target: Any = node.target
    name = target.name() if isinstance(target, torch._ops.OpOverload) else ""
    return name.partition("::")[2].partition(".")[0]


def draws(
    module: fx.GraphModule,
    arguments: Arguments,
    stored: Tensors,
    local: Evaluation,
    quantize: Quantize | None,
) -> Iterator[Tensors]:
    """Yield the results of the operators under random rounding errors, with ties to either side, `DRAWS` times.

    Args:
        module: the program.
        arguments: its inputs.
        stored: the values of the file.
        local: the evaluation on these without errors.
        quantize: as of `Evaluation`.
    """
    reach = _reach(module, arguments, stored, local, quantize)
    for draw in range(DRAWS):
        again = Evaluation(module, stored, quantize, Ties(reach, draw))
        again.evaluate(arguments, PerturbedRounding(draw))
        yield again.computed


def _reach(
    module: fx.GraphModule,
    arguments: Arguments,
    stored: Tensors,
    local: Evaluation,
    quantize: Quantize | None,
) -> dict[str, float]:
    """Return how far rounding moves what each discontinuous operator reads, while no earlier tie falls otherwise.

    It is zero where the file has the value that is read.
    """
    results = {node.name for node in module.graph.nodes if _jumps(node)} - set(stored)
    settled = {name: local.computed[name] for name in results if name in local.computed}
    reach = dict.fromkeys(local.read, 0.0)
    for draw in range(DRAWS if settled else 0):
        again = Evaluation(module, {**stored, **settled}, quantize)
        again.evaluate(arguments, PerturbedRounding(draw))
        for name, before in local.read.items():
            deviation = (again.read[name].double() - before.double()).abs().nan_to_num(0.0, 0.0)
            reach[name] = max(reach[name], MARGIN * deviation.max().item() if deviation.numel() else 0.0)
    return reach


def _jumps(node: fx.Node) -> bool:
    """Return True for results of discontinuous operators, except for the sorted values, which are continuous."""
    if node.target is not operator.getitem:
        return is_discontinuous(node)
    source = node.args[0]
    return isinstance(source, fx.Node) and is_discontinuous(source) and not node.meta["val"].is_floating_point()
