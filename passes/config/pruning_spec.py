"""Pruning specs and sparsity schedules."""

from __future__ import annotations

from typing import ClassVar

import attrs

from graphpress.passes.config.arguments import Tagged, checked, integer, number, strict_arguments, tagged
from graphpress.passes.config.components import PRUNING_ALGORITHMS
from graphpress.passes.config.compression import CompressionSpec, CompressionType


class PruningScheme(Tagged):
    """Base of the structures of zeros."""

    __slots__ = ()


@strict_arguments
@attrs.frozen
class Unstructured(PruningScheme):
    """Zeros at the elements of least magnitude, anywhere; there is no `axis`."""

    type_name: ClassVar[str] = "unstructured"
    empty_arguments: ClassVar[frozenset[str]] = frozenset({"axis"})
    axis: ClassVar[None] = None


@strict_arguments
@attrs.frozen
class ChannelStructured(PruningScheme):
    """Zeros in whole channels along `axis`, those of least norm."""

    type_name: ClassVar[str] = "channel_structured"

    axis: int = attrs.field(default=0, converter=checked(integer()))


@strict_arguments
@attrs.frozen(kw_only=True)
class BlockStructured(PruningScheme):
    """Zeros in blocks of `block_size` elements along `axis`, those of least norm; the last may be smaller."""

    type_name: ClassVar[str] = "block_structured"

    block_size: int = attrs.field(converter=checked(integer(1)))
    axis: int = attrs.field(default=0, converter=checked(integer()))


@strict_arguments
@attrs.frozen(kw_only=True)
class NMStructured(PruningScheme):
    """The same number of zeros in every `m` elements along `axis`, at those of least magnitude.

    At a sparsity of n / m this is n:m sparsity. If m does not divide the axis, elements that are missing in the last
    group count as its first zeros. Mishra et al., "Accelerating sparse deep neural networks" (arXiv 2104.08378).
    """

    type_name: ClassVar[str] = "n_m_structured"

    m: int = attrs.field(converter=checked(integer(1)))
    axis: int = attrs.field(default=1, converter=checked(integer()))


_SCHEMES = (Unstructured, ChannelStructured, BlockStructured, NMStructured)


@strict_arguments
@attrs.frozen
class PruningSpec(CompressionSpec):
    """Pruning of one weight.

    Attributes:
        target_sparsity: final fraction of zeros, from 0 to 1.
        pruning_scheme: `Unstructured`, `ChannelStructured`, `BlockStructured` or `NMStructured`, or its plain form.
        pruning_algo: a registered key, or a class; ``"default"`` is by magnitude, the number of zeros rounded half to
            even; ``"magnitude_floor"`` rounds it down.

    Raises:
        SpecError: for an invalid value; the message names the accepted ones.
    """

    compression_type: ClassVar[CompressionType] = CompressionType.PRUNING

    target_sparsity: float = attrs.field(default=0.5, converter=checked(number(0, 1)))
    pruning_scheme: PruningScheme = attrs.field(
        factory=Unstructured,
        converter=checked(tagged(*_SCHEMES, what="pruning scheme")),
    )
    pruning_algo: str | type = attrs.field(default="default", converter=checked(PRUNING_ALGORITHMS.name))


def default_weight_pruning_spec() -> PruningSpec:
    """The default for weights: half of the elements, unstructured, by magnitude."""
    return PruningSpec()


class SparsitySchedule(Tagged):
    """Base of the sparsity schedules."""

    __slots__ = ()

    def compute_sparsity(self, step_count: int, target_sparsity: float) -> float:
        """The sparsity at `step_count` (from 0) of a weight with the final sparsity `target_sparsity`."""
        raise TypeError(f"{type(self).__name__} does not define `compute_sparsity`")


@strict_arguments
@attrs.frozen
class ConstantSparsitySchedule(SparsitySchedule):
    """No pruning before `begin_step`, the target from then on."""

    type_name: ClassVar[str] = "constant"

    begin_step: int = attrs.field(default=0, converter=checked(integer(0)))

    def compute_sparsity(self, step_count: int, target_sparsity: float) -> float:
        """0 before `begin_step`, `target_sparsity` from then on."""
        return target_sparsity if step_count >= self.begin_step else 0.0


@strict_arguments
@attrs.frozen(kw_only=True)
class PolynomialDecaySchedule(SparsitySchedule):
    """Polynomial growth from `initial_sparsity` to the target in `total_iters` steps, the first of them `begin_step`.

    The sparsity changes every `update_frequency` steps, in ``n = ceil(total_iters / update_frequency)`` updates. It is
    ``target + (initial - target) * (1 - t / (n - 1)) ** power`` at update ``t = 0 ... n - 1``, so the last one has the
    target; a single update has `initial_sparsity`, and the target follows it. Zhu and Gupta, "To prune, or not to
    prune" (2017), equation 1.
    """

    type_name: ClassVar[str] = "polynomial_decay"

    begin_step: int = attrs.field(default=0, converter=checked(integer(0)))
    total_iters: int = attrs.field(converter=checked(integer(1)))
    power: float = attrs.field(default=3.0, converter=checked(number(1e-6, 1e6)))
    initial_sparsity: float = attrs.field(default=0.0, converter=checked(number(0, 1)))
    update_frequency: int = attrs.field(default=1, converter=checked(integer(1)))

    def compute_sparsity(self, step_count: int, target_sparsity: float) -> float:
        """`initial_sparsity` up to `begin_step`, then along the polynomial, `target_sparsity` at its end."""
        elapsed = max(step_count - self.begin_step, 0)
        last = -(-self.total_iters // self.update_frequency) - 1
        update = elapsed // self.update_frequency
        if elapsed >= self.total_iters or update >= last > 0:
            return target_sparsity
        remaining = 1.0 - update / last if last else 1.0
        return float(target_sparsity + (self.initial_sparsity - target_sparsity) * remaining**self.power)
