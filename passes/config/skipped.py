"""Weights that a config means and that stay as they are: one record each, with the reason."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from attrs import frozen

from graphpress.ir.location import UNKNOWN, Location
from graphpress.passes.config.errors import AxisError, BlockSizeError


class SkipReason(Enum):
    """Why a weight is skipped."""

    INDIVISIBLE = "indivisible"
    """Blocks, groups or vectors do not divide it, or its op has no default axis to lay them along."""
    TOO_SMALL = "too_small"
    """It has fewer elements than what would be stored."""
    COMPUTED = "computed"
    """The model computes it as it runs: there is no parameter to store in another form."""
    CHANGED_BY_FORWARD = "changed_by_forward"
    """The model writes to it as it runs."""
    ALREADY_COMPRESSED = "already_compressed"
    """It is stored in a compressed form already."""
    UNNAMED = "unnamed"
    """The config compresses ``weight`` there; this weight has another name, which no entry gives."""

    @property
    def is_news(self) -> bool:
        """True where a warning should tell it: what was compressed before was compressed on purpose."""
        return self is not SkipReason.ALREADY_COMPRESSED


@frozen
class SkippedWeight:
    """A weight that a config means and that is not compressed.

    Attributes:
        name: qualified name in the model.
        reason: why, as a kind.
        detail: why, in words.
        location: of the op that reads it, where that is known.
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
        """Plain data, for JSON; the location apart."""
        return {"name": self.name, "reason": self.reason.value, "detail": self.detail}


class WholeWeightsWarning(UserWarning):
    """Weights that a config means and that were skipped; the message names them and the reasons."""


def warn_of_skipped(
    skipped: Iterable[SkippedWeight], category: type[Warning] = WholeWeightsWarning, stacklevel: int = 2
) -> None:
    """Warn once about all of `skipped`, a line each; `stacklevel` counts as in `warnings.warn`, 2 is the caller."""
    news = [each for each in skipped if each.reason.is_news]
    if news:
        count = f"{len(news)} weight{'s' * (len(news) > 1)} skipped"
        warnings.warn(f"{count}:{_lines(news)}", category, stacklevel=stacklevel + 1)


class Indivisible(Enum):
    """What becomes of weights that blocks, groups or vectors do not divide: skipped, or an error."""

    SKIP = "skip"
    REFUSE = "refuse"
    REFUSE_SPECIFIC = "refuse_specific"
    """An error where the config means this op or module, not just every one."""
    REFUSE_UNLESS_UNKNOWN = "refuse_unless_unknown"
    """An error, except where a blanket default meets an op whose axes are not known."""

    @classmethod
    def of(cls, leave_indivisible: bool | None) -> Indivisible:
        """The meaning of the option of that name of compressors and passes."""
        return {True: cls.SKIP, False: cls.REFUSE, None: cls.REFUSE_SPECIFIC}[leave_indivisible]

    def refuses(self, error: AxisError | BlockSizeError, *, is_specific: bool) -> bool:
        """True when `error` about a weight is to be raised."""
        if self is Indivisible.REFUSE_UNLESS_UNKNOWN:
            return is_specific or isinstance(error, BlockSizeError)
        return self is Indivisible.REFUSE or (self is Indivisible.REFUSE_SPECIFIC and is_specific)


def indivisible(name: str, error: AxisError | BlockSizeError, location: Location = UNKNOWN) -> SkippedWeight:
    """The record of a weight that cannot be cut as the config says."""
    detail = error.explanation if isinstance(error, BlockSizeError) else str(error)
    return SkippedWeight(name, SkipReason.INDIVISIBLE, detail, location)


def cannot_be_cut(refused: Sequence[SkippedWeight]) -> str:
    """The message of the error about weights that cannot be cut as the config says."""
    count = f"{len(refused)} weight{'s' * (len(refused) > 1)}"
    return f"{count} cannot be cut as the config says (leave_indivisible=True skips such weights):{_lines(refused)}"


def _lines(weights: Iterable[SkippedWeight]) -> str:
    return "".join(f"\n  {weight.line}" for weight in weights)
