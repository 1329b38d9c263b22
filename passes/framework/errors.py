"""Errors of building and running pipelines."""

from __future__ import annotations

import math

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Node


class PassError(GraphpressError):
    """A request that a pass cannot fulfil, as an error of its user.

    Args:
        message: what is wrong and what would be accepted.
        node: the node at fault; its module path and source line are reported with the message.
    """

    def __init__(self, message: str, node: Node | None = None):
        super().__init__(message)
        self.node = node


class PassRegistrationError(GraphpressError):
    """A pass or rule that cannot be registered: a name that is taken or malformed, or a declaration of the wrong
    kind.
    """


class UnknownPassError(GraphpressError, LookupError):
    """A name that no registered pass has."""


class PipelineError(GraphpressError, ValueError):
    """An invalid pipeline: steps in an impossible order, or an address without a step."""


class PipelineSyntaxError(PipelineError):
    """Text that is not a valid pipeline.

    Attributes:
        text: the whole text.
        position: the index of the offending character.
        reason: what is wrong there.
    """

    def __init__(self, text: str, position: int, reason: str):
        self.text, self.position, self.reason = text, position, reason
        start = text.rfind("\n", 0, position) + 1
        line, column = text[start:].split("\n", 1)[0], position - start
        super().__init__(f"{reason}\n  {line}\n  {' ' * column}^")


class OptionError(PipelineError):
    """An option value that has no text form."""


class FactError(GraphpressError):
    """A fact that a pass promises but that does not hold for its result."""


class NumericDrift(GraphpressError):
    """A pass that changes the outputs by more than its effect allows.

    Attributes:
        error: the change of the output, in the measure of the effect; infinite if not comparable.
    """

    def __init__(self, message: str, error: float = math.inf):
        super().__init__(message)
        self.error = error


class BisectionError(GraphpressError):
    """A bisection whose initial graph is already bad."""


class BundleError(GraphpressError):
    """A reproducer that cannot be written, read or replayed."""


class BudgetExceeded(GraphpressError):
    """A set of rules that exceeds its rewrite budget; the message names the cycling rules."""


class PatternError(GraphpressError, ValueError):
    """An invalid pattern or rule."""


class PassFailed(GraphpressError):
    """An unexpected exception from a pass.

    The message has the step's address, the current node, its module path and source line, and an excerpt of the graph;
    the cause is the original exception.

    Attributes:
        address: the step, such as ``dce#2``.
        node_name: the current node, or None.
        excerpt: the graph around that node as text.
    """

    def __init__(self, message: str, address: str, node_name: str | None = None, excerpt: str = ""):
        super().__init__(message)
        self.address, self.node_name, self.excerpt = address, node_name, excerpt
