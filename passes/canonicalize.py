"""Canonical forms of ops that torch expresses in several ways."""

from __future__ import annotations

from attrs import frozen

from graphpress.passes.analysis.facts import CANONICAL
from graphpress.passes.framework import CLOSE, RewritePass, Rule, register_pass
from graphpress.passes.rules import convolutions, dropout, elementwise, norms, products, reshaping


@register_pass
@frozen
class Canonicalize(RewritePass):
    """Rewrite ops to the canonical forms that later passes match, and remove identities.

    Removing identities is exact. Native batch norms, ``convolution`` and ``addmm`` become high-level ops that compute
    the same sums of products, possibly in another order. Rules that users add are tried first; as all rules run until
    none matches, they see the canonical forms too.

    Attributes:
        keep_dropout: keep dropouts, for a model that is to be trained; in evaluation they are identities. A dropout
            before a relu moves behind it, so that the relu is next to its layer; one before a batch norm is removed
            in any case.
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
        """The rules, with those for dropouts that `keep_dropout` selects."""
        left_out = dropout.REMOVING if self.keep_dropout else dropout.KEEPING
        return tuple(rule for rule in self.rules if rule not in left_out)
