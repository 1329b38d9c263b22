"""Pruning configs and their training schedules."""

from __future__ import annotations

from typing import ClassVar

import attrs

from graphpress.passes.config.arguments import checked, strict_arguments, tagged
from graphpress.passes.config.base import CompressionConfig, WeightOnlyModuleConfig, WeightOnlyOpConfig
from graphpress.passes.config.entries import Table, config_table, state_table
from graphpress.passes.config.pruning_spec import (
    ConstantSparsitySchedule,
    PolynomialDecaySchedule,
    PruningSpec,
    SparsitySchedule,
    default_weight_pruning_spec,
)


def _every_weight() -> Table:
    return {"weight": default_weight_pruning_spec(), "in_proj_weight": default_weight_pruning_spec()}


@strict_arguments
@attrs.define(kw_only=True)
class OpMagnitudePrunerConfig(WeightOnlyOpConfig):
    """Pruning of the weights of an op; by default half of their elements.

    Attributes:
        op_state_spec: by name of the parameter (or regular expression) or ``"*"``; None skips all.
    """

    op_state_spec: Table | None = attrs.field(factory=_every_weight, converter=checked(state_table(PruningSpec)))


@strict_arguments
@attrs.define(kw_only=True)
class ModuleMagnitudePrunerConfig(WeightOnlyModuleConfig):
    """Pruning of the weights in a module's scope; by default half of their elements.

    Attributes:
        op_state_spec: for every op that no op config covers; see `OpMagnitudePrunerConfig`.
        op_type_config: by op type such as ``linear``; None skips ops of the type.
        op_name_config: by op name or regular expression; None skips the op.
        module_state_spec: for states in its scope; overrides op configs.
        sparsity_schedule: how sparsity grows in training; None means the target from the start.
    """

    op_state_spec: Table | None = attrs.field(factory=_every_weight, converter=checked(state_table(PruningSpec)))
    op_type_config: Table = attrs.field(factory=dict, converter=checked(config_table(OpMagnitudePrunerConfig)))
    op_name_config: Table = attrs.field(factory=dict, converter=checked(config_table(OpMagnitudePrunerConfig)))
    module_state_spec: Table | None = attrs.field(default=None, converter=checked(state_table(PruningSpec)))
    sparsity_schedule: SparsitySchedule | None = attrs.field(
        default=None,
        converter=checked(
            tagged(ConstantSparsitySchedule, PolynomialDecaySchedule, what="sparsity schedule", optional=True)
        ),
    )


@strict_arguments
@attrs.define(kw_only=True)
class MagnitudePrunerConfig(CompressionConfig):
    """Pruning of a model; by default half of every weight's elements.

    With module entries and no `global_config`, everything else is skipped.
    """

    module_config_class: ClassVar[type[ModuleMagnitudePrunerConfig]] = ModuleMagnitudePrunerConfig
    top_keys: ClassVar[tuple[str, ...]] = ("pruning_config", "magnitude_pruning_config")
    entries_replace_global: ClassVar[bool] = True
