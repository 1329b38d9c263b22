"""Passes that are nothing but rules, and rules that users add to them."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.driver import apply_rules
from graphpress.passes.framework.errors import PassRegistrationError, UnknownPassError
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import load_plugins, registered_passes
from graphpress.passes.framework.rules import Rule

_ADDED: dict[str, dict[str, Rule]] = {}


@frozen
class RewritePass(Pass):
    """A pass that applies `rules`, and the rules users added to it, until none matches.

    Attributes:
        rules: in order of preference; a property where they depend on options. Added ones come first.
    """

    rules: ClassVar[tuple[Rule, ...]] = ()

    def all_rules(self) -> tuple[Rule, ...]:
        """Added rules, those of installed packages among them, then the pass's own."""
        load_plugins()
        return (*_ADDED.get(self.name, {}).values(), *self.rules)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Apply all rules."""
        apply_rules(self.all_rules(), graph, rewriter, context)


def add_rule(pass_class: type[RewritePass], rule: Rule) -> Rule:
    """Let `pass_class` apply `rule` too, before its own.

    Raises:
        PassRegistrationError: when the pass has a rule of that name, or takes no rules.
    """
    if not (isinstance(pass_class, type) and issubclass(pass_class, RewritePass)):
        takes = " or ".join(sorted(cls.__name__ for cls in registered_passes() if issubclass(cls, RewritePass)))
        raise PassRegistrationError(f"{pass_class!r} takes no rules, as it is no RewritePass; add them to {takes}")
    added = _ADDED.setdefault(pass_class.name, {})
    own = () if isinstance(pass_class.rules, property) else pass_class.rules
    if rule.name in added or any(rule.name == other.name for other in own):
        raise PassRegistrationError(f"the pass {pass_class.name!r} has a rule {rule.name!r} already")
    added[rule.name] = rule
    return rule


def remove_rule(pass_class: type[RewritePass], rule: Rule) -> None:
    """Undo `add_rule`."""
    added = _ADDED.get(pass_class.name, {})
    if added.get(rule.name) is rule:
        del added[rule.name]


def registered_rules() -> dict[str, Rule]:
    """The rules of every registered pass that can be made without options, by ``pass-name/rule-name``."""
    found: dict[str, Rule] = {}
    for cls in registered_passes():
        if issubclass(cls, RewritePass):
            try:
                instance = cls()  # rules may depend on options; their defaults will do
            except TypeError:
                continue
            found |= {f"{cls.name}/{rule.name}": rule for rule in instance.all_rules()}
    return found


def lookup_rule(name: str) -> Rule:
    """The rule called ``rule-name`` or ``pass-name/rule-name``.

    Raises:
        UnknownPassError: when there is none, or several; the message lists what there is.
    """
    known = registered_rules()
    if name in known:
        return known[name]
    same = [full for full in known if full.partition("/")[2] == name]
    if len(same) == 1:
        return known[same[0]]
    if same:
        raise UnknownPassError(f"{name!r} is ambiguous: say {' or '.join(map(repr, same))}")
    candidates = [*known, *(full.partition("/")[2] for full in known)]
    raise UnknownPassError(f"no rule {name!r}{suggestion(name, candidates)}")
