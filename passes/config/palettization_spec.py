"""Palettization specs: one weight stored as indices into a lookup table (LUT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch

from graphpress.passes.config.arguments import (
    Tagged,
    boolean,
    checked,
    instance,
    integer,
    number,
    one_of,
    strict_arguments,
    tagged,
)
from graphpress.passes.config.compression import CompressionSpec, CompressionType
from graphpress.passes.config.errors import SpecError
from graphpress.passes.config.granularity import (
    Granularity,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
)
from graphpress.passes.config.quantization_spec import QuantizationFormulation, QuantizationSpec

_LUT_DTYPES = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)


class TrainingStrategySpec(Tagged):
    """Base of the training strategies of palettized weights."""

    __slots__ = ()


@strict_arguments
@attrs.frozen
class DefaultTrainingSpec(TrainingStrategySpec):
    """Palettized weights are not trained; only the rest of the model is."""

    type_name: ClassVar[str] = "default"


@strict_arguments
@attrs.frozen
class StraightThroughTrainingSpec(TrainingStrategySpec):
    """Straight-through estimator: the forward pass uses the nearest LUT entries, the gradient goes to the weight.

    LUTs are not trained.

    Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic neurons" (2013).
    """

    type_name: ClassVar[str] = "straight_through"


@strict_arguments
@attrs.frozen
class TableTrainingSpec(TrainingStrategySpec):
    """The LUT entries are trained, and the per-channel scales if there are any.

    The gradient of an entry is the sum over the elements that look it up; rounding to codes or to the weight's dtype
    passes gradients through. Han, Mao and Dally, "Deep compression" (arXiv 1510.00149), section 3.3.

    Attributes:
        assignments: ``fixed`` keeps the entry of every element as clustered. With ``nearest`` the weight is
            trained as well, as by `StraightThroughTrainingSpec`, and each element takes the entry nearest to it as both
            move.
    """

    type_name: ClassVar[str] = "tables"

    assignments: str = attrs.field(default="fixed", converter=checked(one_of(("fixed", "nearest"))))


def _lut_qspec(value: Any) -> QuantizationSpec | None:
    spec = instance(QuantizationSpec, optional=True)(value)
    if spec is not None and spec.dtype not in _LUT_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _LUT_DTYPES)
        raise SpecError(f"{spec.dtype} does not hold table entries; accepted: {names}", "dtype")
    if spec is not None and not isinstance(spec.granularity, PerTensorGranularity | PerChannelGranularity):
        raise SpecError(
            "table entries have one scale for all tables (PerTensorGranularity) or one for each table "
            f"(PerChannelGranularity), not {type(spec.granularity).__name__}",
            "granularity",
        )
    return spec


def _fraction(value: Any) -> float | None:
    return None if value is None else number(0, 1)(value)


@strict_arguments
@attrs.frozen
class PalettizationSpec(CompressionSpec):
    """Palettization of one weight.

    Attributes:
        n_bits: bits of an index, one of 1, 2, 3, 4, 6, 8; a LUT has ``2 ** n_bits`` entries.
        lut_qspec: how the LUT entries are quantized (int8, uint8, float8_e4m3fn or float8_e5m2); None leaves
            them in the weight's dtype.
        granularity: `PerTensorGranularity`, one LUT; or `PerGroupedChannelGranularity`, one for each group.
        cluster_dim: values in one LUT entry; above 1, vectors are clustered.
        enable_per_channel_scale: divide each output channel by its largest magnitude before clustering.
        training_strategy_spec: how the weight is trained.
        activation_aware: in a calibration without a loss, weight the squared error of each element by the second
            moment of the input that it multiplies; False weights all equally.
        sparsity_detection_threshold: a weight with a larger fraction of zeros (0 to 1) is stored like a pruned one: its
            zeros stay exact, only the other elements are clustered, and a mask tells them apart where that takes less
            space. None treats zeros like other values. Vectors have no such form.

    Raises:
        SpecError: for an invalid value; the message names the accepted ones.
    """

    compression_type: ClassVar[CompressionType] = CompressionType.PALETTIZATION
    argument_hints: ClassVar[Mapping[str, str]] = {
        "dtype": "n_bits sets the size of an index, lut_qspec the dtype of table entries",
        "group_size": "it belongs to the granularity, for example PerGroupedChannelGranularity(group_size=16)",
        "axis": "it belongs to the granularity, for example PerGroupedChannelGranularity(axis=0, group_size=16)",
    }

    n_bits: int = attrs.field(default=4, converter=checked(one_of((1, 2, 3, 4, 6, 8))))
    lut_qspec: QuantizationSpec | None = attrs.field(default=None, converter=checked(_lut_qspec))
    granularity: Granularity = attrs.field(
        factory=PerTensorGranularity,
        converter=checked(tagged(PerTensorGranularity, PerGroupedChannelGranularity, what="palettization granularity")),
    )
    cluster_dim: int = attrs.field(default=1, converter=checked(integer(1)))
    enable_per_channel_scale: bool = attrs.field(default=False, converter=checked(boolean))
    training_strategy_spec: TrainingStrategySpec = attrs.field(
        factory=DefaultTrainingSpec,
        converter=checked(
            tagged(DefaultTrainingSpec, StraightThroughTrainingSpec, TableTrainingSpec, what="training strategy")
        ),
    )
    activation_aware: bool = attrs.field(default=False, converter=checked(boolean))
    sparsity_detection_threshold: float | None = attrs.field(default=None, converter=checked(_fraction))

    def __attrs_post_init__(self) -> None:
        if self.sparsity_detection_threshold is None:
            return
        if self.cluster_dim > 1:
            raise SpecError(
                f"{self.sparsity_detection_threshold} is for scalars, whose zeros are single elements, and cluster_dim "
                f"is {self.cluster_dim}; accepted: None",
                "sparsity_detection_threshold",
            )
        if self.lut_qspec is not None and self.lut_qspec.qformulation is QuantizationFormulation.MINVAL:
            raise SpecError(
                f"{self.sparsity_detection_threshold} needs a code for zero, which 'minval' of lut_qspec does not "
                "have; accepted: None",
                "sparsity_detection_threshold",
            )

    @property
    def n_clusters(self) -> int:
        """Entries of one LUT."""
        return 1 << self.n_bits


def default_weight_palettization_spec() -> PalettizationSpec:
    """The default for weights: 4 bits, one LUT for the tensor, scalar entries in the weight's dtype."""
    return PalettizationSpec()
