"""Rules of arithmetic on complex tensors.

An operand is two parts, each a tensor or a number; the imaginary part of a real operand is None, so that no products
with zeros are made.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as KIND
from torch._prims_common import elementwise_dtypes

from graphpress.backends.complexes.pairs import Pair, matmul, real_dtype, rules

aten = torch.ops.aten

Parts = tuple[Any, Any]


def _parts(value: Any, dtype: torch.dtype) -> Parts:
    """Return the real and the imaginary part of an operand, with tensors cast to `dtype`."""
    if isinstance(value, Pair):
        return value.re.to(dtype), value.im.to(dtype)
    if isinstance(value, Tensor):
        return value.to(dtype), None
    return (value.real, value.imag or None) if isinstance(value, complex) else (value, None)


def _joined(re: Any, im: Any) -> Pair:
    """Return a pair of two parts, broadcast to one shape; None is zero."""
    if im is None:
        return Pair(re, torch.zeros_like(re))
    re = torch.zeros_like(im) if re is None else re
    re = re if isinstance(re, Tensor) else torch.full_like(im, re)
    im = im if isinstance(im, Tensor) else torch.full_like(re, im)
    return Pair(re, im) if re.shape == im.shape else Pair(*torch.broadcast_tensors(re, im))


def elementwise(*operators: Any) -> Callable[[Callable[..., Parts]], Callable[..., Any]]:
    """Register a formula over the parts of all operands as the rule of `operators`, in torch's promoted dtype."""

    def register(formula: Callable[..., Parts]) -> Callable[..., Any]:
        def rule(*operands: Any, **settings: Any) -> Pair:
            dtype = real_dtype(elementwise_dtypes(*operands, type_promotion_kind=KIND.DEFAULT)[1])
            return _joined(*formula(*[_parts(each, dtype) for each in operands], **settings))

        rules(*operators)(rule)
        return formula

    return register


def _sum(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def _difference(a: Any, b: Any) -> Any:
    return a if b is None else -b if a is None else a - b


def _product(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a * b


def _scaled(parts: Parts, alpha: Any) -> Parts:
    return parts if alpha == 1 else _times(parts, _parts(alpha, torch.float32))


@elementwise(aten.add.Tensor, aten.add.Scalar)
def _plus(a: Parts, b: Parts, *, alpha: Any = 1) -> Parts:
    b = _scaled(b, alpha)
    return _sum(a[0], b[0]), _sum(a[1], b[1])


@elementwise(aten.sub.Tensor, aten.sub.Scalar)
def _minus(a: Parts, b: Parts, *, alpha: Any = 1) -> Parts:
    b = _scaled(b, alpha)
    return _difference(a[0], b[0]), _difference(a[1], b[1])


@elementwise(aten.rsub.Tensor, aten.rsub.Scalar)
def _subtracted_from(a: Parts, b: Parts, *, alpha: Any = 1) -> Parts:
    return _minus(b, a, alpha=alpha)


@elementwise(aten.mul.Tensor, aten.mul.Scalar)
def _times(a: Parts, b: Parts) -> Parts:
    return _difference(_product(a[0], b[0]), _product(a[1], b[1])), _sum(_product(a[0], b[1]), _product(a[1], b[0]))


@elementwise(aten.div.Tensor, aten.div.Scalar)
def _over(a: Parts, b: Parts) -> Parts:
    if b[1] is None:
        return a[0] / b[0], None if a[1] is None else a[1] / b[0]
    re, im = _times(a, (b[0], -b[1]))
    norm = b[0] * b[0] + b[1] * b[1]
    return re / norm, im / norm


@elementwise(aten.reciprocal.default)
def _inverse(a: Parts) -> Parts:
    return _over((1.0, None), a)


@elementwise(aten._conj.default, aten._conj_physical.default, aten.conj_physical.default)
def _conjugate(a: Parts) -> Parts:
    return a[0], -a[1]


@elementwise(aten.exp.default)
def _exp(a: Parts) -> Parts:
    size = torch.exp(a[0])
    return size * torch.cos(a[1]), size * torch.sin(a[1])


@elementwise(aten.log.default)
def _log(a: Parts) -> Parts:
    return 0.5 * torch.log(a[0] * a[0] + a[1] * a[1]), torch.atan2(a[1], a[0])


def _of_log(factor: float, offset: float) -> Callable[[Parts], Parts]:
    """Return ``factor * log(offset + z)``."""

    def formula(a: Parts) -> Parts:
        re, im = _log((a[0] + offset, a[1]))
        return re * factor, im * factor

    return formula


elementwise(aten.log1p.default)(_of_log(1.0, 1.0))
elementwise(aten.log2.default)(_of_log(1 / math.log(2), 0.0))
elementwise(aten.log10.default)(_of_log(1 / math.log(10), 0.0))


@elementwise(aten.exp2.default)
def _exp2(a: Parts) -> Parts:
    return _exp((a[0] * math.log(2), a[1] * math.log(2)))


@elementwise(aten.expm1.default)
def _expm1(a: Parts) -> Parts:
    re, im = _exp(a)
    return re - 1, im


@elementwise(aten.sigmoid.default)
def _sigmoid(a: Parts) -> Parts:
    re, im = _exp((-a[0], -a[1]))
    return _inverse((re + 1, im))


@elementwise(aten.sin.default)
def _sin(a: Parts) -> Parts:
    return torch.sin(a[0]) * torch.cosh(a[1]), torch.cos(a[0]) * torch.sinh(a[1])


@elementwise(aten.cos.default)
def _cos(a: Parts) -> Parts:
    return torch.cos(a[0]) * torch.cosh(a[1]), -torch.sin(a[0]) * torch.sinh(a[1])


@elementwise(aten.sinh.default)
def _sinh(a: Parts) -> Parts:
    return torch.sinh(a[0]) * torch.cos(a[1]), torch.cosh(a[0]) * torch.sin(a[1])


@elementwise(aten.cosh.default)
def _cosh(a: Parts) -> Parts:
    return torch.cosh(a[0]) * torch.cos(a[1]), torch.sinh(a[0]) * torch.sin(a[1])


@elementwise(aten.tan.default)
def _tan(a: Parts) -> Parts:
    re, im = _tanh((-a[1], a[0]))  # tan z = -i tanh iz
    return im, -re


@elementwise(aten.tanh.default)
def _tanh(a: Parts) -> Parts:
    """Compute ``(t + i s c (1 - t^2)) / (c^2 + t^2 s^2)``, with ``t = tanh x``, ``s = sin y``, ``c = cos y``.

    No part of it overflows, unlike those of the quotient of sinh and cosh.
    """
    t, sin, cos = torch.tanh(a[0]), torch.sin(a[1]), torch.cos(a[1])
    norm = cos * cos + t * t * sin * sin
    return t / norm, sin * cos * (1 - t * t) / norm


def _power(a: Parts, exponent: float) -> Parts:
    """Raise to a real power: integers up to 4 by products, others by absolute value and angle."""
    if exponent in (1, 2, 3, 4):
        square = _times(a, a)
        return {1: a, 2: square, 3: _times(square, a), 4: _times(square, square)}[int(exponent)]
    size, angle = torch.sqrt(a[0] * a[0] + a[1] * a[1]) ** exponent, torch.atan2(a[1], a[0]) * exponent
    return size * torch.cos(angle), size * torch.sin(angle)


@rules(aten.pow.Tensor_Scalar)
def _pow(x: Any, exponent: Any) -> Any:
    if not isinstance(x, Pair) or isinstance(exponent, complex) or exponent == 0:
        return NotImplemented
    return _joined(*_power((x.re, x.im), exponent))


@elementwise(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def _raised(a: Parts, b: Parts) -> Parts:
    """Compute ``exp(b log a)``."""
    if not isinstance(a[0], Tensor):
        log = cmath.log(complex(a[0], a[1] or 0.0))
        return _exp(_times((log.real, log.imag or None), b))
    return _exp(_times(_log((a[0], torch.zeros_like(a[0]) if a[1] is None else a[1])), b))


@elementwise(aten.sqrt.default)
def _sqrt(a: Parts) -> Parts:
    return _power(a, 0.5)


@elementwise(aten.rsqrt.default)
def _rsqrt(a: Parts) -> Parts:
    return _power(a, -0.5)


@elementwise(aten.sgn.default)
def _sgn(a: Parts) -> Parts:
    size = torch.sqrt(a[0] * a[0] + a[1] * a[1])
    size = torch.where(size == 0, torch.ones_like(size), size)
    return a[0] / size, a[1] / size


@rules(aten.abs.default)
def _abs(x: Pair) -> Tensor:
    return torch.sqrt(x.re * x.re + x.im * x.im)


@rules(aten.angle.default)
def _angle(x: Pair) -> Tensor:
    return torch.atan2(x.im, x.re)


@rules(aten.linalg_vector_norm.default)
def _norm(x: Pair, *args: Any, **kwargs: Any) -> Any:
    return torch.linalg.vector_norm(_abs(x), *args, **kwargs)


@rules(aten.var.default, aten.var.dim, aten.var.correction)
def _var(x: Pair, *args: Any, **kwargs: Any) -> Tensor:
    """Add the variances of both parts, as real numbers."""
    return torch.var(x.re, *args, **kwargs) + torch.var(x.im, *args, **kwargs)


@rules(aten.std.default, aten.std.dim, aten.std.correction)
def _std(x: Pair, *args: Any, **kwargs: Any) -> Tensor:
    return _var(x, *args, **kwargs).sqrt()


@rules(aten.isnan.default)
def _isnan(x: Pair) -> Tensor:
    return torch.logical_or(torch.isnan(x.re), torch.isnan(x.im))


@rules(aten.isfinite.default)
def _isfinite(x: Pair) -> Tensor:
    return torch.logical_and(torch.isfinite(x.re), torch.isfinite(x.im))


@rules(aten.isclose.default)
def _isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    if equal_nan:
        return NotImplemented
    is_close = torch.le(torch.abs(a - b), atol + rtol * torch.abs(b))
    return torch.logical_or(torch.eq(a, b), torch.logical_and(is_close, torch.isfinite(torch.abs(a - b))))


@rules(aten.eq.Tensor, aten.eq.Scalar)
def _eq(a: Any, b: Any) -> Tensor:
    dtype = real_dtype(elementwise_dtypes(a, b, type_promotion_kind=KIND.DEFAULT)[1])
    (re, im), (other_re, other_im) = _parts(a, dtype), _parts(b, dtype)
    return torch.logical_and(torch.eq(re, other_re), torch.eq(*_zeros_for(im, other_im)))


def _zeros_for(a: Any, b: Any) -> Parts:
    """Return two imaginary parts, at least one of which is a tensor, as operands, with a tensor first."""
    a, b = (0.0 if each is None else each for each in (a, b))
    return (a, b) if isinstance(a, Tensor) else (b, a)


@rules(aten.ne.Tensor, aten.ne.Scalar)
def _ne(a: Any, b: Any) -> Tensor:
    return torch.logical_not(_eq(a, b))


@rules(aten.complex.default, makes_complex=True)
def _complex(re: Tensor, im: Tensor) -> Pair:
    return _joined(re, im)


@rules(aten.polar.default, makes_complex=True)
def _polar(size: Tensor, angle: Tensor) -> Pair:
    return _joined(size * torch.cos(angle), size * torch.sin(angle))


def bilinear(operator: Any, real: Any = None) -> Callable[[Any, Any], Pair]:
    """Register the rule of an operator that is linear in each of two operands, by `real`, or itself, on their parts."""

    def rule(a: Any, b: Any, *settings: Any) -> Pair:
        dtype = real_dtype(torch.promote_types(a.dtype, b.dtype))
        return _joined(*_multiplied(real or operator, _parts(a, dtype), _parts(b, dtype), *settings))

    return rules(operator)(rule)


def _multiplied(operator: Any, a: Parts, b: Parts, *settings: Any) -> Parts:
    def product(x: Any, y: Any) -> Any:
        return None if x is None or y is None else operator(x, y, *settings)

    return _difference(product(a[0], b[0]), product(a[1], b[1])), _sum(product(a[0], b[1]), product(a[1], b[0]))


bilinear(aten.mm.default)
bilinear(aten.bmm.default)
_matmul = bilinear(aten.matmul.default, matmul)
bilinear(aten.mv.default)


@rules(aten.dot.default)
def _dot(a: Any, b: Any) -> Any:
    return (a * b).sum()


@rules(aten.vdot.default)
def _vdot(a: Any, b: Any) -> Any:
    return _dot(torch.conj(a), b)


@rules(aten.addmm.default, aten.baddbmm.default, aten.addmv.default)
def _addmm(bias: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    product = torch.matmul(a, b)
    return (bias if beta == 1 else bias * beta) + (product if alpha == 1 else product * alpha)


@rules(aten.linear.default)
def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    product = _matmul(x, weight.transpose(0, 1))
    return product if bias is None else product + bias


@rules(aten.convolution.default)
def _convolution(x: Any, weight: Any, bias: Any, *settings: Any) -> Any:
    dtype = real_dtype(torch.promote_types(x.dtype, weight.dtype))

    def convolved(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = aten.convolution.default(a, b, None, *settings)
        return result

    result = _joined(*_multiplied(convolved, _parts(x, dtype), _parts(weight, dtype)))
    return result if bias is None else result + bias.reshape([-1, *[1] * (x.dim() - 2)])
