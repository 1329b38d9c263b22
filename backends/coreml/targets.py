"""The deployment targets of Core ML, and what each can store.

A newer target stores all that an older one does.
"""

from __future__ import annotations

from enum import IntEnum

from graphpress.ir.errors import GraphpressError, suggestion


class TargetError(GraphpressError, ValueError):
    """A name that is no deployment target."""


class Target(IntEnum):
    """The oldest system a package is for."""

    iOS15 = 15
    """No compressed constants."""
    iOS16 = 16
    """Weights of 8 bits per tensor or channel, one table per tensor, sparse weights."""
    iOS17 = 17
    """Activations of 8 bits, too."""
    iOS18 = 18
    """Weights of 4 bits, blocks, tables per group, of vectors and of 8-bit entries, and all of them together."""
    iOS26 = 26
    """The same, with the entries of a table scaled where they are looked up."""

    @classmethod
    def of(cls, value: object) -> Target:
        """A target from itself, its name, or a member of coremltools' own `target`.

        Raises:
            TargetError: when there is none of that name.
        """
        if isinstance(value, cls):
            return value
        name = getattr(value, "name", value)
        if isinstance(name, str) and name in cls.__members__:
            return cls[name]
        accepted = ", ".join(cls.__members__)
        raise TargetError(f"no target {value!r}{suggestion(str(name), cls.__members__)}; accepted: {accepted}")
