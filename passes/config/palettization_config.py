"""Palettization configs and their training schedules."""

from __future__ import annotations

from typing import ClassVar

import attrs

from graphpress.passes.config.arguments import boolean, checked, instance, integer, number, strict_arguments
from graphpress.passes.config.base import (
    CompressionConfig,
    Made,
    Presets,
    WeightOnlyModuleConfig,
    WeightOnlyOpConfig,
    as_module,
)
from graphpress.passes.config.entries import Table, config_table, state_table
from graphpress.passes.config.errors import SpecError
from graphpress.passes.config.granularity import PerGroupedChannelGranularity
from graphpress.passes.config.palettization_spec import PalettizationSpec, default_weight_palettization_spec
from graphpress.passes.config.plain import PlainForm


def _every_weight() -> Table:
    return {
        "weight": default_weight_palettization_spec(),
        "in_proj_weight": default_weight_palettization_spec(),
    }


@strict_arguments
@attrs.define(kw_only=True)
class OpKMeansPalettizerConfig(WeightOnlyOpConfig):
    """Palettization of the weights of an op; by default 4 bits per tensor.

    Attributes:
        op_state_spec: by name of the parameter (or regular expression) or ``"*"``; None skips all.
    """

    op_state_spec: Table | None = attrs.field(factory=_every_weight, converter=checked(state_table(PalettizationSpec)))


@strict_arguments
@attrs.define(kw_only=True)
class PATSchedule(PlainForm):
    """The training step from which palettized weights are used, counted by `step()` from 0."""

    enable_fake_palettize: int = attrs.field(default=0, converter=checked(integer(0)))


@strict_arguments
@attrs.frozen(kw_only=True)
class VectorKMeansConfig(PlainForm):
    """The effort of vector clustering, which without it grows with the weight.

    Attributes:
        n_local_trials: candidates that greedy k-means++ compares for each centroid; None means a few.
        n_init: tables that are seeded and refined before the best are combined.
        max_iter: Lloyd steps of each refinement, at most.
        tol: a step that lowers the squared error by less than this fraction is the last.
    """

    n_local_trials: int | None = attrs.field(default=None, converter=checked(integer(1, optional=True)))
    n_init: int = attrs.field(default=5, converter=checked(integer(1)))
    max_iter: int = attrs.field(default=300, converter=checked(integer(1)))
    tol: float = attrs.field(default=1e-4, converter=checked(number(0.0, 1.0)))


@strict_arguments
@attrs.define(kw_only=True)
class ModuleKMeansPalettizerConfig(WeightOnlyModuleConfig):
    """Palettization of the weights in a module's scope; by default 4 bits per tensor.

    Attributes:
        op_state_spec: for every op that no op config covers; see `OpKMeansPalettizerConfig`.
        op_type_config: by op type such as ``linear``; None skips ops of the type.
        op_name_config: by op name or regular expression; None skips the op.
        module_state_spec: for states in its scope; overrides op configs.
        enable_fast_kmeans_mode: accepted for compatibility; clustering is fast and exact either way.
        rounding_precision: accepted for compatibility; weights are never rounded before clustering.
        pat_schedule: when palettized weights are used in training; None means from the first step.
        vector_kmeans_config: the effort of clustering where a spec has vectors; None depends on the weight.

    Raises:
        SpecError: also for a `vector_kmeans_config` without a spec with `cluster_dim` above 1.
    """

    presets: ClassVar[PalettizerPresets[ModuleKMeansPalettizerConfig]]

    op_state_spec: Table | None = attrs.field(factory=_every_weight, converter=checked(state_table(PalettizationSpec)))
    op_type_config: Table = attrs.field(factory=dict, converter=checked(config_table(OpKMeansPalettizerConfig)))
    op_name_config: Table = attrs.field(factory=dict, converter=checked(config_table(OpKMeansPalettizerConfig)))
    module_state_spec: Table | None = attrs.field(default=None, converter=checked(state_table(PalettizationSpec)))
    enable_fast_kmeans_mode: bool = attrs.field(default=True, converter=checked(boolean))
    rounding_precision: int | None = attrs.field(default=4, converter=checked(integer(0, optional=True)))
    pat_schedule: PATSchedule | None = attrs.field(
        default=None, converter=checked(instance(PATSchedule, optional=True))
    )
    vector_kmeans_config: VectorKMeansConfig | None = attrs.field(
        default=None, converter=checked(instance(VectorKMeansConfig, optional=True))
    )

    def __attrs_post_init__(self) -> None:
        if self.vector_kmeans_config is None:
            return
        ops = [op for op in (*self.op_type_config.values(), *self.op_name_config.values()) if op is not None]
        tables = [self.op_state_spec, self.module_state_spec, *(op.op_state_spec for op in ops)]
        specs = [spec for table in tables for spec in (table or {}).values() if spec is not None]
        if all(spec.cluster_dim == 1 for spec in specs):
            raise SpecError(
                "no spec of this config clusters vectors; accepted: None, or a PalettizationSpec with cluster_dim > 1",
                "vector_kmeans_config",
            )


@strict_arguments
@attrs.define(kw_only=True)
class KMeansPalettizerConfig(CompressionConfig):
    """Palettization of a model; by default every weight to 4 bits per tensor.

    With module entries and no `global_config`, everything else is skipped.
    """

    module_config_class: ClassVar[type[ModuleKMeansPalettizerConfig]] = ModuleKMeansPalettizerConfig
    top_keys: ClassVar[tuple[str, ...]] = ("kmeans_palettization_config",)
    entries_replace_global: ClassVar[bool] = True
    presets: ClassVar[PalettizerPresets[KMeansPalettizerConfig]]


class PalettizerPresets(Presets[Made]):
    """Presets of palettization, for the same parameters as the default config."""

    def w4(self, *, axis: int = 0, group_size: int = 16) -> Made:
        """4 bits, one lookup table (LUT) for every `group_size` channels: output channels, or input ones at axis 1."""
        return self._weights(_grouped(4, axis, group_size))

    def w6(self, *, axis: int = 0, group_size: int = 16) -> Made:
        """6 bits, one LUT for every `group_size` channels: output channels, or input ones at axis 1."""
        return self._weights(_grouped(6, axis, group_size))

    def w8(self) -> Made:
        """8 bits, one LUT for the tensor."""
        return self._weights(PalettizationSpec(n_bits=8))

    def _weights(self, spec: PalettizationSpec) -> Made:
        return self._finish(ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec, "in_proj_weight": spec}))


def _grouped(n_bits: int, axis: int, group_size: int) -> PalettizationSpec:
    groups = PerGroupedChannelGranularity(axis=axis, group_size=group_size)
    return PalettizationSpec(n_bits=n_bits, granularity=groups)


ModuleKMeansPalettizerConfig.presets = PalettizerPresets(as_module)
KMeansPalettizerConfig.presets = PalettizerPresets(lambda module: KMeansPalettizerConfig(global_config=module))
