"""Trainable layers with a folded batch norm, and norms with frozen statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from graphpress.ir.inference import to_torch
from graphpress.ir.ops import OpDef
from graphpress.ir.reference import batch_norm_factor
from graphpress.quantization.expressions import ConstantExpression
from graphpress.quantization.fake_quantize import uncompiled

_FROZEN = "_norm_is_frozen"  # in `__dict__`, so that copying and pickling preserve it


class FreezableNorm(nn.Module):
    """Base of the modules that represent a batch norm of the user's model in a prepared graph.

    Attributes:
        module_paths: paths of the batch norms in the user's model.
    """

    module_paths: tuple[str, ...] = ()

    @property
    def norm_is_frozen(self) -> bool:
        """True if training uses the running statistics and does not update them."""
        return self.__dict__.get(_FROZEN, False)

    def freeze_norm(self, frozen: bool = True) -> None:
        """Train with fixed running statistics if `frozen`, else with batch statistics."""
        self.__dict__[_FROZEN] = frozen

    @property
    def uses_batch_statistics(self) -> bool:
        """True if it normalizes by batch statistics and updates the running ones."""
        return self.training and not self.norm_is_frozen


Norm = FreezableNorm | _BatchNorm


def norms_of(module: nn.Module) -> list[Norm]:
    """Return the batch norms in `module`: those of a prepared graph and torch's own."""
    return [m for m in module.modules() if isinstance(m, FreezableNorm | _BatchNorm)]


def set_frozen(norm: Norm, frozen: bool, training: bool) -> None:
    """Freeze or unfreeze `norm`; `training` is the mode that an unfrozen torch norm gets."""
    if isinstance(norm, FreezableNorm):
        norm.freeze_norm(frozen)
    else:
        norm.__dict__[_FROZEN] = frozen
        norm.train(training and not frozen)


def keep_frozen(module: nn.Module) -> None:
    """Put frozen torch norms back into eval mode, after `module.train()`."""
    for norm in norms_of(module):
        if isinstance(norm, _BatchNorm) and norm.__dict__.get(_FROZEN, False):
            norm.eval()


@frozen
class FoldedNorm:
    """A folded batch norm, with its tensors as argument indices of the layer.

    `after` lists the arguments that scale (True) or shift (False) the channels of its output, in order.
    """

    running_var: int
    running_mean: int
    weight: int | None
    bias: int | None
    layer_bias: int | None
    eps: float
    momentum: float
    after: tuple[tuple[bool, int], ...] = ()


class BatchNormLayer(FreezableNorm):
    """A layer ``op(input, weight, bias)`` with a folded batch norm, called with the input and the parameters of both.

    Weight and bias are constant expressions over these parameters.
    """

    def __init__(
        self,
        op: OpDef,
        attributes: Mapping[str, Any],
        norm: FoldedNorm,
        weight: tuple[ConstantExpression, tuple[int, ...]],
        bias: tuple[ConstantExpression, tuple[int, ...]],
    ):
        super().__init__()
        self.op = op
        self.attributes = dict(attributes)
        self.norm = norm
        self.weight, self.weight_arguments = weight
        self.bias, self.bias_arguments = bias

    def forward(self, input: Tensor, *parameters: Tensor) -> Tensor:
        """Compute the normalized output of the layer."""
        if torch.compiler.is_compiling() and not self.weight.is_traceable:
            # Uncompiled as a whole: a graph break at the quantizer would save a variance that the norm updates.
            result: Tensor = uncompiled(self._apply_layer, input, *parameters)
            return result
        return self._apply_layer(input, *parameters)

    def _apply_layer(self, input: Tensor, *parameters: Tensor) -> Tensor:
        weight = self.weight(*(parameters[i] for i in self.weight_arguments))
        if self.uses_batch_statistics:
            return self._with_batch_statistics(input, weight, parameters)
        return self._run(input, weight, self.bias(*(parameters[i] for i in self.bias_arguments)))

    def _with_batch_statistics(self, input: Tensor, weight: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        norm = self.norm
        running_var, running_mean = parameters[norm.running_var], parameters[norm.running_mean]
        gain = None if norm.weight is None else parameters[norm.weight]
        factor = batch_norm_factor(running_var, gain, norm.eps)
        for is_scale, place in norm.after:
            factor = factor * parameters[place] if is_scale else factor
        output = self._run(input, weight, None)
        axis = -1 if self.op.short_name == "linear" and output.ndim == 2 else 1
        shape = [1] * output.ndim
        shape[axis] = -1
        # A zero factor loses the channel's values; the norm's zero weight then reduces the channel to its bias.
        safe = torch.where(factor == 0, torch.ones_like(factor), factor)
        output = output / safe.reshape(shape).to(output.dtype)
        if norm.layer_bias is not None:
            output = output + parameters[norm.layer_bias].reshape(shape)
        beta = None if norm.bias is None else parameters[norm.bias]
        output = functional.batch_norm(
            output, running_mean, running_var, gain, beta, training=True, momentum=norm.momentum, eps=norm.eps
        )
        for is_scale, place in norm.after:
            each = parameters[place].reshape(shape)
            output = output * each if is_scale else output + each
        return output

    def _run(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bound: dict[str, Any] = {"input": input, "weight": weight}
        if bias is not None:
            bound["bias"] = bias
        bound |= {name: to_torch(value) for name, value in self.attributes.items()}
        args, kwargs = self.op.unbind(bound)
        assert self.op.target is not None
        output: Tensor = self.op.target(*args, **kwargs)
        return output

    def extra_repr(self) -> str:
        """Return the op."""
        return self.op.name
