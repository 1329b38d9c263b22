"""The deviation of an operator that rounding explains, and the decision that it serves.

**Decision.** A file agrees with a model if it computes what the model's operators compute, each with rounding errors
of its own: for every operator ``f`` with the value ``y`` and operands ``x`` in the file, ``|y - f(x)|`` must be of the
size of the roundings of ``f``. Errors of the operators before it are in ``x``, on both sides alike. So a value that
fell to the other side of a tie, in a quantizer, a comparison or a selection, counts once, where it fell, however the
rest of the model amplifies it. A quantizer itself has no errors (its formula is specified: divide, round half to
even), so that on the operand that it has in the file, its codes must be equal: a wrong scale, a zero point off by one,
and another rounding of ties are differences. Outputs are values of operators, so that they need no further condition.

**Operands that the file does not tell** are computed in torch from the last values that it does tell, and have an
error. A discontinuous operator that reads one may have either result for elements beside a tie. How far errors reach
is measured while the results of all earlier discontinuous operators are held, and so without ties; then draws move
operands by that reach, first up, then down, then at random (see `evaluation`). A tie is therefore found though its
probability is small. Without any value of the file, this is a decision on the whole model, which is as lenient as the
model amplifies its ties.

**Size of rounding errors.** As in Monte Carlo arithmetic (Parker, 1997), operators are evaluated `DRAWS` times with
every rounding replaced by a random one. One rounding in a dtype with unit round-off ``u`` (2**-24 in float32, 2**-11
in float16, 2**-8 in bfloat16) has a relative error with a standard deviation of at most ``u / sqrt(3)``. In a sum of K
terms of either sign, partial sums grow as ``sqrt(j / K)``, so that the K roundings have together the variance ``u**2 /
3 * K / 2``, relative to the result or to the root mean square of all results, whichever is larger. With one further
rounding, an operator gives::

    y + sqrt((1 + K / 2) / 3) * u * max(|y|, rms(y)) * GAIN * normal        (K = 0, and |y| alone, without a sum)

Convolutions in 16 bits accumulate in 32 bits on both sides, so K is 0. Moves, comparisons, selections and rounding to
integers are exact. `GAIN` is 2: each side has such errors, and library functions are off by up to two units. A value
may deviate by `MARGIN` times the largest deviation of a draw, both at its worst element and in the root mean square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from graphpress.backends.comparison import Allowance, OutputCheck
from graphpress.ir.aten_traits import Trait, families_with

DRAWS, GAIN, MARGIN = 4, 2.0, 2.5


def allowance_of(draws: Sequence[OutputCheck]) -> Allowance:
    """Return the allowance for an output with these deviations; draws that are not finite allow nothing."""

    def largest(values: Sequence[float]) -> float:
        return MARGIN * max((value for value in values if math.isfinite(value)), default=0.0)

    return Allowance(largest([draw.max_error for draw in draws]), largest([draw.rms_error for draw in draws]))


class PerturbedRounding(TorchDispatchMode):
    """Mode in which the float results of operators have random rounding errors; deterministic for a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _is_exact(func):
            return result
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, torch.Tensor) and each.is_floating_point() and each.numel():
                each.copy_(self._perturbed(each, _terms(func, args, each)))
        return result

    def _perturbed(self, y: torch.Tensor, terms: float) -> torch.Tensor:
        values = y.float()
        size = values.abs()
        if terms:
            finite = size[size.isfinite()]
            size = size.clamp_min(finite.square().mean().sqrt().item() if finite.numel() else 0.0)
        deviation = GAIN * torch.finfo(y.dtype).eps / 2 * math.sqrt((1 + terms / 2) / 3)
        noise = torch.randn(y.shape, generator=self._random) * size.nan_to_num(posinf=0.0) * deviation
        return (values.double() + noise.double()).to(y.dtype)


_SELECTING = """
    abs neg relu relu6 sign floor ceil round trunc maximum minimum amin min clamp clamp_min clamp_max hardtanh where
    masked_fill index index_put scatter embedding sort topk argsort tril triu copy fill full ones zeros empty eye arange
    full_like ones_like zeros_like empty_like new_full new_ones new_zeros new_empty scalar_tensor lift_fresh
    max_pool2d_with_indices max_pool3d_with_indices _unsafe_view _reshape_alias as_strided lut_to_dense sparse_to_dense
    threshold is_same_size item _local_scalar_dense resize set_ bernoulli rand randn nan_to_num select_scatter
    slice_scatter
"""
_EXACT = families_with(Trait.VALUE_PRESERVING) | families_with(Trait.VIEW) | set(_SELECTING.split()) | {"quantize"}
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"}
_NORMALIZING = {
    "native_layer_norm",
    "native_group_norm",
    "_softmax",
    "_log_softmax",
    "var",
    "std",
    "var_mean",
    "logsumexp",
}
_SUMS = {
    "sum",
    "mean",
    "prod",
    "cumsum",
    "norm",
    "linalg_vector_norm",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
}


def _family(func: Any) -> str:
    name: str = func.name().partition("::")[2].partition(".")[0]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _is_exact(func: Any) -> bool:
    return _family(func) in _EXACT


def _terms(func: Any, args: Any, result: torch.Tensor) -> float:
    """Return the number of terms of the sums of an operator."""
    family, tensors = _family(func), [each for each in args if isinstance(each, torch.Tensor)]
    if not tensors:
        return 0
    if family == "convolution":
        return 0 if result.dtype.itemsize < 4 else tensors[1].numel() / max(1, min(tensors[1].shape[:2]))
    if family in _PRODUCTS:
        return tensors[-1].shape[-2] if tensors[-1].dim() > 1 else tensors[-1].shape[0]
    if "attention" in family:
        return tensors[0].shape[-1] + tensors[1].shape[-2]
    if family in _SUMS:
        return tensors[0].numel() / max(result.numel(), 1)
    if family == "native_group_norm":
        return tensors[0].numel() / (args[3] * args[6])
    if family in _NORMALIZING:
        shape = tensors[0].shape
        return math.prod(args[1]) if family == "native_layer_norm" else max(shape, default=1)
    return 0
