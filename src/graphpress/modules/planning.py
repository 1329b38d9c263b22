"""Which parameters of a model are compressed, and how: the config, resolved."""

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
    """One parameter to compress.

    Attributes:
        places: where it stands: several sites for a tied parameter.
        decision: what the config makes of it.
        module_config: what the config says about its module; it has the schedule of training.
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
        """The place for which the config decides."""
        return self.places[self.decision.place]

    @property
    def spec(self) -> Any:
        """How it is compressed."""
        return self.decision.spec

    @property
    def op_type(self) -> str:
        """Of the op that reads it."""
        return self.chosen.site.op_type

    @property
    def is_specific(self) -> bool:
        """True when the config means this weight, not just every weight."""
        return self.decision.is_specific


@frozen(eq=False)
class WeightPlan:
    """What becomes of the parameters of a model.

    Attributes:
        weights: those to compress.
        skipped: those that the config means and that stay as they are.
        sites: of all parameters, as configs address them.
    """

    weights: tuple[PlannedWeight, ...]
    skipped: tuple[SkippedWeight, ...]
    sites: tuple[OpSite, ...]


def plan_by_modules(model: nn.Module, config: CompressionConfig, run: Callable[[], Any] | None) -> WeightPlan:
    """The plan of a compressor that takes parameters by their names, whatever reads them.

    Args:
        model: the model.
        config: which parameters, and how.
        run: runs the model; None leaves it to the kinds of modules which ops read their parameters.

    Raises:
        UnmatchedConfigError: when entries of the config match nothing.
    """
    plan = plan_weights(model, ConfigResolver(config), Taken.PARAMETERS, None if run is None else recorded(model, run))
    report_unmatched(config, plan.sites, module_scopes(model))
    return plan


def plan_weights(model: nn.Module, resolver: ConfigResolver, taken: Taken, recording: Recording | None) -> WeightPlan:
    """Decide about every parameter of `model`, of which one run was recorded, or none.

    Args:
        model: the model.
        resolver: of the config.
        taken: what the technique takes for a weight.
        recording: of a run, which tells the ops that read parameters of the user's own modules.
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
