"""Passes that consist of rules, and lookup of rules by name."""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import frozen

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.framework.driver import apply_rules
from graphpress.passes.framework.errors import PassRegistrationError, UnknownPassError
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import load_plugins, registered_passes
from graphpress.passes.framework.rules import Rule, not_a_rule

_ADDED: dict[str, dict[str, Rule]] = {}


@frozen
class RewritePass(Pass):
    """A pass that applies its rules, and those that users added, until none matches.

    Attributes:
        rules: all rules of the pass, in order of preference. Added ones come first. If options choose among them,
            override `chosen_rules`; use a property for rules that are made from options.
    """

    rules: ClassVar[tuple[Rule, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = cls.__dict__.get("rules")
        if "rules" in cls.__dict__ and not isinstance(declared, property):
            cls.rules = _rules_of(cls, declared)

    def chosen_rules(self) -> tuple[Rule, ...]:
        """The rules that the options select; by default all."""
        return self.rules

    def all_rules(self) -> tuple[Rule, ...]:
        """The rules that `run` applies: added ones, also those of installed packages, then the chosen ones."""
        load_plugins()
        return (*_ADDED.get(self.name, {}).values(), *self.chosen_rules())

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Apply all rules."""
        apply_rules(self.all_rules(), graph, rewriter, context)


def add_rule(pass_class: type[RewritePass], rule: Rule) -> Rule:
    """Add `rule` to `pass_class`, before its own rules.

    Raises:
        PassRegistrationError: when `rule` is no `Rule`, the pass has a rule of that name, or it takes no rules.
    """
    if not (isinstance(pass_class, type) and issubclass(pass_class, RewritePass)):
        takes = " or ".join(sorted(cls.__name__ for cls in registered_passes() if issubclass(cls, RewritePass)))
        raise PassRegistrationError(f"{pass_class!r} takes no rules, because it is no RewritePass; add them to {takes}")
    if not isinstance(rule, Rule):
        raise PassRegistrationError(f"cannot add to the pass {pass_class.name!r}: {not_a_rule(rule)}")
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


def rules_of(pass_class: type[RewritePass]) -> tuple[Rule, ...]:
    """All rules of `pass_class`, whatever its options, added ones first.

    For a pass that makes its rules from options, these are the rules of the default options; none if an option has no
    default.
    """
    load_plugins()
    own = pass_class.rules
    if isinstance(own, property):
        try:
            own = pass_class().rules
        except TypeError:
            own = ()
    return (*_ADDED.get(pass_class.name, {}).values(), *own)


def registered_rules() -> dict[str, Rule]:
    """The rules of every registered pass, whatever its options, by ``pass-name/rule-name``."""
    passes = [cls for cls in registered_passes() if issubclass(cls, RewritePass)]
    return {f"{cls.name}/{rule.name}": rule for cls in passes for rule in rules_of(cls)}


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


def _rules_of(cls: type[Pass], declared: Any) -> tuple[Rule, ...]:
    """Check `declared` and return it as the rules of `cls`.

    Raises:
        PassRegistrationError: when it is no tuple of rules with names of their own.
    """
    where = f"`rules` of {cls.__module__}.{cls.__qualname__}"
    if not isinstance(declared, tuple | list):
        example = f"({declared.name.replace('-', '_')},)" if isinstance(declared, Rule) else "(my_rule,)"
        raise PassRegistrationError(f"{where} is a tuple of rules, such as {example}, not {declared!r}")
    names = set()
    for each in declared:
        if not isinstance(each, Rule):
            raise PassRegistrationError(f"{where}: {not_a_rule(each)}")
        if each.name in names:
            raise PassRegistrationError(f"{where}: two rules are called {each.name!r}; give one another `name`")
        names.add(each.name)
    return tuple(declared)
