"""Sizes with symbolic batch, as seen by model code during the proof run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.utils._pytree as pytree
from attrs import define, field
from torch.overrides import TorchFunctionMode

from graphpress.ir.torch.generalization.affine import Affine, Clash, NotProven, Samples


@define(eq=False)
class Run:
    """The state of one run of a model.

    Attributes:
        samples: the sample batch size of each symbol.
        reads_batch: True once the model has read a size that depends on the batch.
        failure: the first error, which the model's code may have caught.
    """

    samples: Samples
    reads_batch: bool = False
    failure: Exception | None = field(default=None)

    def fail(self, error: Exception) -> NoReturn:
        """End the run, even if the model's code catches the error."""
        if self.failure is None:
            self.failure = error
        raise error

    def refuse(self, what: str) -> NoReturn:
        """End the run because the model depends on the batch, or may."""
        self.fail(NotProven(f"the model {what}", reads_batch=self.reads_batch))

    def explain(self, name: str, arguments: Any, error: Exception) -> NoReturn:
        """End the run at a failing function, as a clash if its operands have different batch sizes."""
        if self.failure is not None:
            raise self.failure from error
        symbols: dict[str, None] = {}
        for leaf in pytree.tree_leaves(arguments):
            sizes = leaf.shape if isinstance(leaf, torch.Tensor) else (leaf,) if type(leaf) is int else ()
            for size in sizes:
                form = self.samples.read(size)
                symbols |= dict.fromkeys(form.factors if form is not None else ())
        said = str(error).splitlines()[0] if str(error) else repr(error)
        self.fail(Clash(tuple(symbols), f"{name} fails at another batch size: {said}"))

    def seen(self, number: int) -> Any:
        """Return a size for use by the model: a number or a `BatchDim`."""
        form = self.samples.read(number)
        if form is None:
            self.reads_batch = True
            self.refuse(f"reads a size that is not a multiple of the batch: {number} at {self._batches}")
        return self.wrap(form)

    def wrap(self, form: Affine) -> Any:
        """Return an expression for use by the model: a number or a `BatchDim`."""
        if form.is_constant:
            return form.constant
        self.reads_batch = True
        return BatchDim(form, self)

    @property
    def _batches(self) -> str:
        return " and ".join(map(str, self.samples.run_sizes.values()))


def _decided(compare: Callable[[BatchDim, Affine], bool]) -> Callable[[BatchDim, Any], Any]:
    def method(self: BatchDim, other: Any) -> Any:
        form = _form(other)
        return NotImplemented if form is None else compare(self, self.form.plus(form, -1))

    return method


def _refused(what: str) -> Callable[..., Any]:
    def method(self: BatchDim, *_: Any) -> NoReturn:
        self.run.refuse(f"{what} the size of its batch")

    return method


class BatchDim(torch.SymInt):
    """A size that depends on the batch.

    Sums, differences, integer multiples, and quotients with a constant remainder are of this class again. Comparisons
    are answered if all batch sizes give the same answer. Every other operation ends the run.

    Derives from `SymInt` so that torch accepts it as a size; it has no node and uses no `ShapeEnv`.
    """

    def __init__(self, form: Affine, run: Run):
        self.form = form
        self.run = run

    @property
    def node(self) -> NoReturn:
        """The symbolic node that torch code would inspect."""
        self.run.refuse("passes the size of its batch to code that decides by it")

    def __add__(self, other: Any) -> Any:
        form = _form(other)
        return NotImplemented if form is None else self.run.wrap(self.form.plus(form))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        form = _form(other)
        return NotImplemented if form is None else self.run.wrap(self.form.plus(form, -1))

    def __rsub__(self, other: Any) -> Any:
        form = _form(other)
        return NotImplemented if form is None else self.run.wrap(form.plus(self.form, -1))

    def __mul__(self, other: Any) -> Any:
        form = _form(other)
        if form is None:
            return NotImplemented
        if not form.is_constant:
            self.run.refuse("multiplies sizes of its batch")
        return self.run.wrap(self.form.times(form.constant))

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return self.run.wrap(self.form.times(-1))

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __divmod__(self, other: Any) -> Any:
        form = _form(other)
        if form is None:
            return NotImplemented
        divided = self.form.divided(form.constant) if form.is_constant else None
        if divided is None:
            self.run.refuse("divides the size of its batch")
        return self.run.wrap(divided[0]), divided[1]

    def __floordiv__(self, other: Any) -> Any:
        divided = self.__divmod__(other)
        return divided if divided is NotImplemented else divided[0]

    def __mod__(self, other: Any) -> Any:
        divided = self.__divmod__(other)
        return divided if divided is NotImplemented else divided[1]

    def __bool__(self) -> bool:
        return not self._is_zero(self.form)

    @_decided
    def __eq__(self, difference: Affine) -> bool:
        return self._is_zero(difference)

    @_decided
    def __ne__(self, difference: Affine) -> bool:
        return not self._is_zero(difference)

    @_decided
    def __lt__(self, difference: Affine) -> bool:
        return self._is_negative(difference)

    @_decided
    def __ge__(self, difference: Affine) -> bool:
        return not self._is_negative(difference)

    @_decided
    def __gt__(self, difference: Affine) -> bool:
        return self._is_negative(difference.times(-1))

    @_decided
    def __le__(self, difference: Affine) -> bool:
        return not self._is_negative(difference.times(-1))

    __hash__ = None  # type: ignore[assignment]

    def _is_zero(self, form: Affine) -> bool:
        if form.is_constant:
            return form.constant == 0
        if any(bound is not None and bound > 0 for bound in (form.minimum, form.times(-1).minimum)):
            return False
        if sorted(form.factors.values()) == [-1, 1] and not form.constant:
            self.run.fail(Clash(tuple(form.factors), "the model compares the batches of two inputs"))
        self._refuse_comparison()

    def _is_negative(self, form: Affine) -> bool:
        below, above = form.minimum, form.times(-1).minimum
        if below is not None and below >= 0:
            return False
        if above is not None and above > 0:
            return True
        self._refuse_comparison()

    def _refuse_comparison(self) -> NoReturn:
        self.run.refuse("compares the size of its batch")

    __index__ = _refused("counts by")
    __int__ = __float__ = __complex__ = __trunc__ = __round__ = __floor__ = __ceil__ = _refused("converts")
    __truediv__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rdivmod__ = _refused("divides by or into")
    __pow__ = __rpow__ = _refused("takes a power of")
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _refused("takes bits of")
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = __and__
    __str__ = __repr__ = __format__ = _refused("prints")


def _form(number: Any) -> Affine | None:
    if isinstance(number, BatchDim):
        return number.form
    return Affine({}, number) if isinstance(number, int) else None


_ASKS_FOR_EXTENTS = frozenset(
    {
        torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
        torch.Tensor.size,
        torch.Tensor.numel,
        torch.Tensor.nelement,
        torch.numel,
    }
)
# Functions that return a number or flag without any batch size in it.
_ASKS_FOR_OTHER_THINGS = frozenset(
    {
        "dim",
        "ndim",
        "ndimension",
        "dtype",
        "itemsize",
        "element_size",
        "device",
        "get_device",
        "is_floating_point",
        "is_complex",
        "is_signed",
        "is_conj",
        "is_neg",
        "is_inference",
        "is_leaf",
        "is_sparse",
        "is_quantized",
        "is_cuda",
        "is_cpu",
        "is_meta",
        "is_mps",
        "is_nested",
        "is_mkldnn",
        "is_xpu",
        "requires_grad",
        "layout",
        "is_tensor",
        "is_storage",
    }
)


class SymbolicSizes(TorchFunctionMode):
    """Context in which tensor sizes are `BatchDim`s and torch accepts them as sizes."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `function` on plain numbers; see the class."""
        plain, named = self._plain(args), self._plain(kwargs or {})
        try:
            result = function(*plain, **named)
        except Exception as error:
            self.run.explain(_name(function), (plain, named), error)
        if function in _ASKS_FOR_EXTENTS:
            return self._seen(result)
        if _holds_number(result) and _name(function) not in _ASKS_FOR_OTHER_THINGS:
            self.run.refuse(f"calls {_name(function) or function} on a tensor")
        return result

    def _seen(self, sizes: Any) -> Any:
        if isinstance(sizes, int):
            return self.run.seen(sizes)
        seen = [self.run.seen(size) for size in sizes]
        return torch.Size(seen) if any(isinstance(size, BatchDim) for size in seen) else sizes

    def _plain(self, argument: Any) -> Any:
        kind = type(argument)
        if kind is BatchDim:
            return argument.form.at(self.run.samples.run_sizes)
        if kind is tuple or kind is list:
            return kind([self._plain(item) for item in argument])
        if kind is torch.Size:
            return tuple(self._plain(item) for item in argument)
        if kind is dict:
            return {key: self._plain(item) for key, item in argument.items()}
        if kind is slice:
            return slice(*(self._plain(item) for item in (argument.start, argument.stop, argument.step)))
        return argument


def _holds_number(result: Any) -> bool:
    if isinstance(result, tuple | list) and result:
        return any(map(_holds_number, result))
    return isinstance(result, bool | int | float)


def _name(function: Any) -> str:
    name = getattr(function, "__name__", "")
    return getattr(getattr(function, "__self__", None), "__name__", name) if name == "__get__" else name
