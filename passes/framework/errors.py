"""What can go wrong while pipelines are built and run."""

from __future__ import annotations

import math

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Node


class PassError(GraphpressError):
    """Raised by a pass that cannot do what its user asked for.

    Args:
        message: what was wrong and what would be accepted.
        node: where; its module path and source line are then reported beside the message.
    """

    def __init__(self, message: str, node: Node | None = None):
        super().__init__(message)
        self.node = node


class PassRegistrationError(GraphpressError):
    """A pass or rule that cannot be registered: a name that is taken or malformed, or a declaration of the wrong
    kind.
    """


class UnknownPassError(GraphpressError, LookupError):
    """A name no registered pass has."""


class PipelineError(GraphpressError, ValueError):
    """A pipeline that cannot be: steps in an impossible order, or an address that names no step."""


class PipelineSyntaxError(PipelineError):
    """Text that is no pipeline.

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
    """A pass promised a fact about its result that does not hold."""


class NumericDrift(GraphpressError):
    """A pass changed the numbers by more than its effect allows.

    Attributes:
        error: how far the output moved, in the measure of the effect; infinite where it cannot be compared.
    """

    def __init__(self, message: str, error: float = math.inf):
        super().__init__(message)
        self.error = error


class BisectionError(GraphpressError):
    """A search for the first bad step that cannot start: the graph is bad before any step."""


class BundleError(GraphpressError):
    """A reproducer that cannot be written, read or replayed."""


class BudgetExceeded(GraphpressError):
    """A set of rules went on rewriting beyond its budget; the message names the rules that cycle."""


class PatternError(GraphpressError, ValueError):
    """A pattern or rule that does not make sense."""


class PassFailed(GraphpressError):
    """An exception left a pass.

    The message carries the step's address, the node the pass was at, its module path and the user's source line, and
    an excerpt of the graph; the original exception is the cause.

    Attributes:
        address: the step, such as ``dce#2``.
        node_name: the node the pass was at, or None.
        excerpt: the graph around that node as text.
    """

    def __init__(self, message: str, address: str, node_name: str | None = None, excerpt: str = ""):
        super().__init__(message)
        self.address, self.node_name, self.excerpt = address, node_name, excerpt
