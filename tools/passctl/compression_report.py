"""What a compression is worth: sizes, errors, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree
from torch import nn

from graphpress.backends.comparison import CheckReport
from graphpress.compressor import mode_restored


@attrs.frozen
class CompressionReport:
    """The figures of one compression.

    Attributes:
        stored_bytes: of all files of the asset.
        weight_bytes: of its constants, by the size law: the sum of ``ceil(numel * bits / 8)``.
        float_bytes: of the float model's parameters and buffers.
        check: the saved asset, executed, against the finalized module.
        drift: root mean square of the finalized module's error against the float model, relative to the root mean
            square of the latter's output, on the example inputs.
        seconds: by stage.
    """

    stored_bytes: int
    weight_bytes: int
    float_bytes: int
    check: CheckReport
    drift: float
    seconds: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """How many times smaller the weights are."""
        return self.float_bytes / self.weight_bytes if self.weight_bytes else float("inf")

    def rows(self) -> list[tuple[str, str]]:
        """The figures as names and texts."""
        explained = [output.max_error_in_runtime_arithmetic for output in self.check.outputs]
        error = f"{self.check.max_error:.2g} of the output's range"
        if self.check.ok and any(each is not None for each in explained):
            error += f", {max(each or 0.0 for each in explained):.2g} with sums in the runtime's order"
        return [
            ("float weights", _bytes(self.float_bytes)),
            ("stored weights", _bytes(self.weight_bytes)),
            ("smaller by", f"{self.ratio:.2f}x"),
            ("asset on disk", _bytes(self.stored_bytes)),
            ("asset against finalized module", f"{error}: {'ok' if self.check.ok else 'MISMATCH'}"),
            ("finalized module against float", f"{self.drift:.2%} relative error"),
            ("seconds in all", f"{sum(self.seconds.values()):.1f}"),
        ]

    def data(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "stored_bytes": self.stored_bytes,
            "weight_bytes": self.weight_bytes,
            "float_weight_bytes": self.float_bytes,
            "ratio": self.ratio,
            "check": {
                "ok": self.check.ok,
                "tolerance": self.check.tolerance,
                "max_error": self.check.max_error,
                "problem": self.check.problem,
                "outputs": [attrs.asdict(output) for output in self.check.outputs],
            },
            "relative_error_against_float": self.drift,
            "seconds": dict(self.seconds),
        }


def float_bytes(model: nn.Module) -> int:
    """Bytes of all floating parameters and buffers, those that are tied counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.is_floating_point())


def relative_error(model: nn.Module, other: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Root mean square of the difference of all floating outputs over that of `model`'s, both in eval mode."""
    before, after = _outputs(model, inputs), _outputs(other, inputs)
    if len(before) != len(after) or any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
        return float("inf")
    error = sum((a - b).square().sum().item() for a, b in zip(before, after, strict=True))
    signal = sum(a.square().sum().item() for a in before)
    return float((error / signal) ** 0.5) if signal else float(error**0.5)


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    with mode_restored(model), torch.no_grad():
        for module in model.modules():
            module.training = False
        leaves = pytree.tree_leaves(model(*inputs))
    return [leaf.double() for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit} ({count:,} bytes)"
    return f"{count} bytes"
