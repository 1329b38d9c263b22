"""Which weights a config means, and how: decided here for every compressor, execution mode and pass.

Modules and graphs describe each place where a weight is read as a `WeightSite`; `WeightResolver.decide` applies the
rules, each of which is written once:

- a weight answers to its own names, and after these to the name of the operand, where a technique takes weights by what
  ops read; ``"weight"`` is no more than one of these names;
- of several places where one weight is read, or several names of a tied one, the most specific entry decides;
- ``"weight"`` and ``"*"`` are blanket keys, which mean weights only: two axes or more, and not of norms. Any other key
  means what it names;
- what stands in the way of a weight that is meant, and a weight that has another name than ``"weight"`` where the
  config compresses that, are recorded as a `SkippedWeight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from attrs import frozen

from graphpress.ir.location import UNKNOWN, Location
from graphpress.passes.config.entries import ALL, OpSite
from graphpress.passes.config.resolution import ConfigResolver, Decision
from graphpress.passes.config.skipped import SkippedWeight, SkipReason

WEIGHT = "weight"


class Taken(Enum):
    """What a technique takes for a weight. This is the one thing in which techniques differ."""

    FACTORS = "factors"
    """What an op multiplies its input with, or picks rows from; the name of the operand counts too. For quantization,
    whose scales lie along the channels of an op, and for passes, which see graphs of any origin.
    """
    PARAMETERS = "parameters"
    """Any parameter of a module, such as a position embedding that is added; only its own name counts. For the
    palettizer and the pruner, as their documents have it.
    """


@frozen
class Obstacle:
    """What keeps a weight from being compressed, whatever the config says."""

    reason: SkipReason
    detail: str


@frozen
class WeightSite:
    """One place where a weight is read.

    Attributes:
        op: the op that reads it, as configs address it.
        names: of the weight, within the modules that hold it.
        rank: how many axes it has.
        operand: the operand of the op that it is; None where that is not known.
        is_factor: True where the op multiplies its input with it, or picks rows from it.
        obstacle: what keeps it from being compressed.
        location: of the op.
    """

    op: OpSite
    names: tuple[str, ...]
    rank: int
    operand: str | None = None
    is_factor: bool = False
    obstacle: Obstacle | None = None
    location: Location = UNKNOWN

    def keys(self, taken: Taken) -> tuple[str, ...]:
        """The names that entries of a config may give it, the most telling first."""
        if taken is Taken.PARAMETERS or not self.is_factor or self.operand is None:
            return self.names
        return tuple(dict.fromkeys((*self.names, self.operand)))


@frozen
class WeightDecision:
    """What becomes of one weight.

    Attributes:
        name: its qualified name.
        place: which of its sites decided.
        entry: what the config says there.
        spec: how it is compressed; None where it stays as it is.
        skipped: why it stays, where the config means it.
    """

    name: str
    place: int
    entry: Decision
    spec: Any | None
    skipped: SkippedWeight | None = None

    @property
    def is_specific(self) -> bool:
        """True when the config means this op or module, not just every one."""
        return self.entry.is_specific


class WeightResolver:
    """Decides about weights, for one config.

    Attributes:
        resolver: of the config.
        taken: what the technique takes for a weight.
    """

    def __init__(self, resolver: ConfigResolver, taken: Taken):
        self.resolver = resolver
        self.taken = taken

    def decide(self, name: str, sites: Sequence[WeightSite]) -> WeightDecision:
        """What becomes of the weight called `name`, which is read at all of `sites`: at least one."""
        entries = [self.resolver.explain_state(site.op, *site.keys(self.taken)) for site in sites]
        place = max(range(len(sites)), key=lambda index: entries[index].precedence)
        entry, site = entries[place], sites[place]
        skipped = None
        if entry.spec is None:
            skipped = self._unnamed(name, site, entry)
        elif self._is_meant(site, entry):
            blocked = next((each for each in (site, *sites) if each.obstacle is not None), None)
            if blocked is None or blocked.obstacle is None:
                return WeightDecision(name, place, entry, entry.spec)
            skipped = SkippedWeight(name, blocked.obstacle.reason, blocked.obstacle.detail, blocked.location)
        return WeightDecision(name, place, entry, None, skipped)

    def _is_meant(self, site: WeightSite, entry: Decision) -> bool:
        """False for what a blanket key of the config does not mean, and for tensors without axes."""
        if entry.key not in (WEIGHT, ALL):
            return site.rank > 0
        if self.taken is Taken.FACTORS:
            return site.is_factor
        return site.rank >= 2 and not site.op.op_type.endswith("norm")

    def _unnamed(self, name: str, site: WeightSite, entry: Decision) -> SkippedWeight | None:
        """The record of a weight that no entry names, where the config compresses ``weight``."""
        if entry.explicit or not site.is_factor or site.obstacle is not None:
            return None
        usual = self.resolver.explain_state(site.op, WEIGHT)
        if usual.key != WEIGHT or usual.spec is None:
            return None
        accepted = " or ".join(map(repr, (*site.names[:1], ALL)))
        detail = f"{usual.source} does not mean it, and no other entry names it; keys that do: {accepted}"
        return SkippedWeight(name, SkipReason.UNNAMED, detail, site.location)
