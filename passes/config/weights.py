"""Decision which weights are compressed, for every compressor, execution mode and pass.

Modules and graphs describe each place where a weight is read as a `WeightSite`; `WeightResolver.decide` applies the
rules, each of which is written once:

- an entry may match a weight by its own names or, for techniques that find weights by the operands of ops, by the name
  of the operand; own names come first, and ``"weight"`` is only one of these names;
- if one weight is read at several places or has several names, the most specific entry decides;
- ``"weight"`` and ``"*"`` are blanket keys, which match weights only: two axes or more, and not of norms; in the
  `module_state_spec` of the very module, ``"weight"`` is the parameter of that name. Any other key matches whatever it
  names;
- a matched weight that cannot be compressed, and a weight under another name where the config compresses ``"weight"``,
  are recorded as a `SkippedWeight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from attrs import frozen

from graphpress.ir.location import UNKNOWN, Location
from graphpress.passes.config.entries import ALL, OpSite
from graphpress.passes.config.resolution import ConfigResolver, Decision, ModuleLevel, OpLevel
from graphpress.passes.config.skipped import SkippedWeight, SkipReason

WEIGHT = "weight"


class Taken(Enum):
    """What a technique considers a weight; the only difference between techniques."""

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
    """A reason why a weight cannot be compressed, whatever the config."""

    reason: SkipReason
    detail: str


@frozen
class WeightSite:
    """One place where a weight is read.

    Attributes:
        op: the op that reads it, as configs address it.
        names: of the weight, within the modules that hold it.
        rank: how many axes it has.
        operand: the name of the operand that it is; None if unknown.
        is_factor: True if the op multiplies its input by it, or selects rows of it.
        obstacle: the reason why it cannot be compressed, if any.
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
        """The names by which config entries may match it, the most specific first."""
        if taken is Taken.PARAMETERS or not self.is_factor or self.operand is None:
            return self.names
        return tuple(dict.fromkeys((*self.names, self.operand)))


@frozen
class WeightDecision:
    """The decision about one weight.

    Attributes:
        name: its qualified name.
        place: which of its sites decided.
        entry: the decision of the config there.
        spec: how it is compressed; None if it is not.
        skipped: the record if the config matches it and it is not compressed.
    """

    name: str
    place: int
    entry: Decision
    spec: Any | None
    skipped: SkippedWeight | None = None

    @property
    def is_specific(self) -> bool:
        """True if the deciding entry is specific to the op or module, not a blanket default."""
        return self.entry.is_specific


class WeightResolver:
    """Decides which weights one config compresses.

    Attributes:
        resolver: of the config.
        taken: what the technique considers a weight.
    """

    def __init__(self, resolver: ConfigResolver, taken: Taken):
        self.resolver = resolver
        self.taken = taken

    def decide(self, name: str, sites: Sequence[WeightSite]) -> WeightDecision:
        """Decide about the weight called `name`, which is read at all of `sites`, at least one."""
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
        """False for tensors that a blanket key does not match, and for tensors without axes."""
        if entry.key not in (WEIGHT, ALL):
            return site.rank > 0
        if self.taken is Taken.FACTORS:
            return site.is_factor or self._is_named_in_its_module(site, entry)
        return site.rank >= 2 and not site.op.op_type.endswith("norm")

    def _is_named_in_its_module(self, site: WeightSite, entry: Decision) -> bool:
        """True if the `module_state_spec` of an entry for the very module names the parameter.

        What the ops of the module do with it then does not matter: experts are often gathered before they are
        multiplied with.
        """
        return (
            entry.op_level is OpLevel.MODULE
            and entry.level > ModuleLevel.GLOBAL
            and self.resolver.governing(site.op.module_stack).is_own
            and entry.key in site.names
            and site.rank >= 2
        )

    def _unnamed(self, name: str, site: WeightSite, entry: Decision) -> SkippedWeight | None:
        """The record of a weight that no entry matches while the config compresses ``weight``."""
        if entry.explicit or not site.is_factor or site.obstacle is not None:
            return None
        usual = self.resolver.explain_state(site.op, WEIGHT)
        if usual.key != WEIGHT or usual.spec is None:
            return None
        accepted = " or ".join(map(repr, (*site.names[:1], ALL)))
        detail = f"{usual.source} does not match it, and no other entry does; keys that would: {accepted}"
        return SkippedWeight(name, SkipReason.UNNAMED, detail, site.location)
