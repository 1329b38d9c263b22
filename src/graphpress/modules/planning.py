"""Resolution of a config to the parameters of a model that are compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen
from torch import Tensor, nn

from graphpress.eager import Recording, module_scopes, recorded
from graphpress.modules.sites import StateSite, weight_sites
from graphpress.passes.config import (
    CompressionConfig,
    ConfigResolver,
    OpSite,
    SkippedWeight,
    Taken,
    WeightDecision,
    WeightResolver,
    report_unmatched,
)


@frozen(eq=False)
class PlannedWeight:
    """A parameter to compress.

    Attributes:
        places: its sites, several for a tied parameter.
        decision: the config's decision.
        module_config: the config entry of its module, which has the training schedule.
    """

    places: tuple[StateSite, ...]
    decision: WeightDecision
    module_config: Any

    @property
    def name(self) -> str:
        """The first of its qualified names."""
        return self.places[0].qualified_name

    @property
    def parameter(self) -> Tensor:
        """The tensor."""
        return self.places[0].parameter

    @property
    def chosen(self) -> StateSite:
        """The site to which the decision applies."""
        return self.places[self.decision.place]

    @property
    def spec(self) -> Any:
        """The compression spec."""
        return self.decision.spec

    @property
    def op_type(self) -> str:
        """The type of the op that reads it."""
        return self.chosen.site.op_type

    @property
    def is_specific(self) -> bool:
        """True if the config selects this weight in particular, not all weights."""
        return self.decision.is_specific


@frozen(eq=False)
class WeightPlan:
    """The plan for all parameters of a model.

    Attributes:
        weights: the parameters to compress.
        skipped: the parameters that the config selects but that are not compressed.
        sites: all parameters, as configs address them.
    """

    weights: tuple[PlannedWeight, ...]
    skipped: tuple[SkippedWeight, ...]
    sites: tuple[OpSite, ...]


def plan_by_modules(model: nn.Module, config: CompressionConfig, run: Callable[[], Any] | None) -> WeightPlan:
    """Plan the compression of parameters by their names, for any op that reads them.

    Args:
        model: the model.
        config: the config.
        run: runs the model, to record which ops read its parameters; None infers the ops from the module types.

    Raises:
        UnmatchedConfigError: if entries of the config match nothing.
    """
    plan = plan_weights(model, ConfigResolver(config), Taken.PARAMETERS, None if run is None else recorded(model, run))
    report_unmatched(config, plan.sites, module_scopes(model))
    return plan


def plan_weights(model: nn.Module, resolver: ConfigResolver, taken: Taken, recording: Recording | None) -> WeightPlan:
    """Plan the compression of every parameter of `model`.

    Args:
        model: the model.
        resolver: resolves the config.
        taken: the weights that the technique accepts.
        recording: a recorded run, which identifies the ops that read parameters of user-defined modules, or None.
    """
    decides = WeightResolver(resolver, taken)
    sites = weight_sites(model, recording)
    by_parameter: dict[int, list[StateSite]] = {}
    for each in sites:
        by_parameter.setdefault(id(each.parameter), []).append(each)
    weights: list[PlannedWeight] = []
    skipped: list[SkippedWeight] = []
    for places in by_parameter.values():
        decision = decides.decide(places[0].qualified_name, [place.weight for place in places])
        if decision.skipped is not None:
            skipped.append(decision.skipped)
        if decision.spec is not None:
            config = resolver.governing(places[decision.place].site.module_stack).config
            weights.append(PlannedWeight(tuple(places), decision, config))
    return WeightPlan(tuple(weights), tuple(skipped), tuple(dict.fromkeys(each.site for each in sites)))
