"""Which parameters of a model are compressed, and how: the config, resolved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from torch import Tensor, nn

from graphpress.eager.naming import module_scopes
from graphpress.modules.forms import forms_of
from graphpress.modules.sites import UNKNOWN_OP, StateSite, layer_sites, state_sites
from graphpress.passes.config import CompressionConfig, ConfigResolver, Decision, report_unmatched


@frozen(eq=False)
class PlannedWeight:
    """One parameter to compress.

    Attributes:
        places: where it stands: several sites for a tied parameter.
        spec: how.
        op_type: of the op that reads it.
        is_specific: True when the config means this weight, not just every weight.
        module_config: what the config says about its module; it has the schedule of training.
    """

    places: tuple[StateSite, ...]
    spec: Any
    op_type: str
    is_specific: bool
    module_config: Any

    @property
    def name(self) -> str:
        """The first of its qualified names."""
        return self.places[0].qualified_name

    @property
    def parameter(self) -> Tensor:
        """The tensor."""
        return self.places[0].parameter


def plan_weights(
    model: nn.Module, config: CompressionConfig, run: Callable[[], Any] | None, warning: type[Warning]
) -> list[PlannedWeight]:
    """Resolve `config` for `model`, which `run` runs; weights that are left whole are reported as a `warning`.

    Raises:
        UnmatchedConfigError: when entries of the config match nothing.
    """
    sites = state_sites(model, run)
    report_unmatched(config, [each.site for each in sites], module_scopes(model))
    resolver = ConfigResolver(config)
    by_parameter: dict[int, list[StateSite]] = {}
    for each in sites:
        by_parameter.setdefault(id(each.parameter), []).append(each)
    _report_computed(model, resolver, warning)
    planned = (_planned(places, resolver) for places in by_parameter.values())
    return [each for each in planned if each is not None]


def _planned(places: Sequence[StateSite], resolver: ConfigResolver) -> PlannedWeight | None:
    """The most specific decision about any place of a parameter holds for all of them."""
    decisions = [(resolver.explain_state(place.site, place.name), place) for place in places]
    decision, place = max(decisions, key=lambda item: _rank(item[0]))
    if decision.spec is None or not _is_meant(place, decision):
        return None
    config = resolver.governing(place.site.module_stack).config
    return PlannedWeight(tuple(places), decision.spec, place.site.op_type, decision.is_specific, config)


def _report_computed(model: nn.Module, resolver: ConfigResolver, warning: type[Warning]) -> None:
    """Warn about layers whose weight the config speaks of, but which is no parameter, or is written to in forward."""
    left = []
    for place in layer_sites(model):
        layer = place.module
        if resolver.state_spec(place.site, "weight") is None or forms_of(layer):
            continue
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
            left.append(f"{place.path}.weight: with max_norm, the layer itself changes it as it runs")
        elif "weight" not in layer._parameters and isinstance(getattr(layer, "weight", None), Tensor):
            left.append(f"{place.path}.weight: it is computed, by a parametrization; remove that first")
    if left:
        lines = "".join(f"\n  {line}" for line in left)
        warnings.warn(f"{len(left)} weights are left whole:{lines}", warning, stacklevel=4)


def _rank(decision: Decision) -> tuple[bool, int, int]:
    return decision.explicit, int(decision.level), int(decision.op_level or 0)


def _is_meant(place: StateSite, decision: Decision) -> bool:
    """Blanket entries mean weights: of two axes or more, and not of norms. Others mean what they name."""
    if place.name in forms_of(place.module) or getattr(place.module, "max_norm", None) is not None:
        return False  # computed already, or written to by its own forward
    is_blanket = decision.source.endswith(("['weight']", "['*']"))
    if not is_blanket:
        return True
    is_weight = place.parameter.ndim >= 2 and not place.site.op_type.endswith("norm")
    by_all = decision.source.endswith("['*']")
    return is_weight and not (by_all and place.site.op_type == UNKNOWN_OP and place.parameter.ndim < 2)
