"""Records of weights that a config matches and that are skipped."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from attrs import frozen

from graphpress.ir.location import UNKNOWN, Location
from graphpress.passes.config.errors import AxisError, BlockSizeError


class SkipReason(Enum):
    """The kinds of reasons why a weight is skipped."""

    INDIVISIBLE = "indivisible"
    """Blocks, groups or vectors do not divide it, or its op has no default axis to lay them along."""
    TOO_SMALL = "too_small"
    """Its stored form would have more elements."""
    COMPUTED = "computed"
    """The model computes it, so there is no parameter to compress."""
    CHANGED_BY_FORWARD = "changed_by_forward"
    """The model writes to it."""
    ALREADY_COMPRESSED = "already_compressed"
    """It is compressed already."""
    UNNAMED = "unnamed"
    """The config compresses ``weight`` there; no entry matches the name of this weight."""

    @property
    def is_news(self) -> bool:
        """True if it is worth a warning: weights that were compressed before are not."""
        return self is not SkipReason.ALREADY_COMPRESSED


@frozen
class SkippedWeight:
    """A weight that a config matches and that is not compressed.

    Attributes:
        name: qualified name in the model.
        reason: the kind of reason.
        detail: the reason in words.
        location: of the op that reads it, if known.
    """

    name: str
    reason: SkipReason
    detail: str
    location: Location = UNKNOWN

    def __str__(self) -> str:
        return f"skipped {self.name}: {self.detail}"

    @property
    def line(self) -> str:
        """The record as a line of a list: name, location and reason."""
        where = "" if self.location == UNKNOWN else f" ({self.location})"
        return f"{self.name}{where}: {self.detail}"

    def data(self) -> dict[str, Any]:
        """Plain data for JSON, with the location as a separate entry."""
        return {"name": self.name, "reason": self.reason.value, "detail": self.detail}


class WholeWeightsWarning(UserWarning):
    """Weights that a config matches and that were skipped; the message lists them with reasons."""


def warn_of_skipped(
    skipped: Iterable[SkippedWeight], category: type[Warning] = WholeWeightsWarning, stacklevel: int = 2
) -> None:
    """Warn once about all of `skipped`, a line each; `stacklevel` counts as in `warnings.warn`, 2 is the caller."""
    news = [each for each in skipped if each.reason.is_news]
    if news:
        count = f"{len(news)} weight{'s' * (len(news) > 1)} skipped"
        warnings.warn(f"{count}:{_lines(news)}", category, stacklevel=stacklevel + 1)


@frozen
class UncutWeight:
    """A weight that blocks, groups or vectors do not divide.

    Attributes:
        name: qualified name in the model.
        error: why.
        is_specific: True if the deciding entry of the config is specific to the op or module.
        location: of the op that reads it, if known.
    """

    name: str
    error: AxisError | BlockSizeError
    is_specific: bool
    location: Location = UNKNOWN

    @property
    def record(self) -> SkippedWeight:
        """The record of the weight as a skipped one."""
        return indivisible(self.name, self.error, self.location)


class Indivisible(Enum):
    """The treatment of weights that blocks, groups or vectors do not divide: skip, or raise."""

    SKIP = "skip"
    REFUSE = "refuse"
    REFUSE_SPECIFIC = "refuse_specific"
    """An error if the deciding entry is specific to the op or module."""
    REFUSE_UNLESS_UNKNOWN = "refuse_unless_unknown"
    """An error, except for a blanket default at an op with unknown axes."""

    @classmethod
    def of(cls, leave_indivisible: bool | None) -> Indivisible:
        """Convert the option `leave_indivisible` of compressors and passes."""
        return {True: cls.SKIP, False: cls.REFUSE, None: cls.REFUSE_SPECIFIC}[leave_indivisible]

    @classmethod
    def of_blocks(cls, leave_indivisible: bool | None, *, others: bool) -> Indivisible:
        """The same for weights that are quantized in blocks; `others` is True if any weight of the model can be."""
        if leave_indivisible is None and others:
            return cls.REFUSE_SPECIFIC
        return cls.SKIP if leave_indivisible else cls.REFUSE_UNLESS_UNKNOWN

    def refuses(self, error: AxisError | BlockSizeError, *, is_specific: bool) -> bool:
        """True if `error` about a weight must be raised."""
        if self is Indivisible.REFUSE_UNLESS_UNKNOWN:
            return is_specific or isinstance(error, BlockSizeError)
        return self is Indivisible.REFUSE or (self is Indivisible.REFUSE_SPECIFIC and is_specific)

    def refused(self, uncut: Iterable[UncutWeight]) -> list[SkippedWeight]:
        """Return the records of those of `uncut` that must be an error; if there are none, all are skipped."""
        return [each.record for each in uncut if self.refuses(each.error, is_specific=each.is_specific)]


def indivisible(name: str, error: AxisError | BlockSizeError, location: Location = UNKNOWN) -> SkippedWeight:
    """The record of a weight that blocks, groups or vectors do not divide."""
    detail = error.explanation if isinstance(error, BlockSizeError) else str(error)
    return SkippedWeight(name, SkipReason.INDIVISIBLE, detail, location)


def cannot_be_cut(refused: Sequence[SkippedWeight]) -> str:
    """The error message about weights that blocks, groups or vectors do not divide."""
    count = f"{len(refused)} weight{'s' * (len(refused) > 1)}"
    return f"{count} cannot be divided as the config says (leave_indivisible=True skips such weights):{_lines(refused)}"


def _lines(weights: Iterable[SkippedWeight]) -> str:
    return "".join(f"\n  {weight.line}" for weight in weights)
