"""One spelling for what torch spells several ways."""

from __future__ import annotations

from attrs import frozen

from graphpress.passes.analysis.facts import CANONICAL
from graphpress.passes.framework import CLOSE, RewritePass, Rule, register_pass
from graphpress.passes.rules import convolutions, dropout, elementwise, norms, products, reshaping


@register_pass
@frozen
class Canonicalize(RewritePass):
    """Rewrite each spelling of an operation to the one that later passes look for, and remove identities.

    Identities are exact. Batch norm in its several native forms, ``convolution`` and ``addmm`` become the high-level
    ops they are the same sum of products as; only the order of that sum may differ. Rules that users add
    come first, and as all run until none matches, they see the one spelling too.

    Attributes:
        keep_dropout: leave the dropouts of a model that is to be trained, which are identities in evaluation. They
            move behind a relu they are in front of, so that it is next to its layer; one in front of a batch norm goes
            all the same.
    """

    gives = frozenset({CANONICAL})
    effect = CLOSE(rtol=1e-5, atol=1e-6)
    is_idempotent = True
    rules = (
        *reshaping.RULES,
        *elementwise.RULES,
        *dropout.REMOVING,
        *dropout.KEEPING,
        *norms.RULES,
        *products.RULES,
        *convolutions.RULES,
    )

    keep_dropout: bool = False

    def chosen_rules(self) -> tuple[Rule, ...]:
        """All but those for dropouts that are not asked for."""
        left_out = dropout.REMOVING if self.keep_dropout else dropout.KEEPING
        return tuple(rule for rule in self.rules if rule not in left_out)
