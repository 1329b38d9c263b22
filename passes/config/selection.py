"""Config of the selection of quantization details by the measured output error."""

from __future__ import annotations

from typing import Any

import attrs

from graphpress.passes.config.arguments import checked, number, strict_arguments
from graphpress.passes.config.errors import SpecError
from graphpress.passes.config.plain import PlainForm

_LONGEST = 1e9


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST:
        raise SpecError(f"{value!r} is not a number of seconds; accepted: a number from 0 to {_LONGEST:g} or None")
    return float(value)


@strict_arguments
@attrs.define(kw_only=True)
class Selection(PlainForm):
    """Selection of smoothing, ranges, codes and bias corrections by the output error on held-out calibration batches.

    On leaving `calibration_mode()`, each is kept only if the error falls, and the activation quantizers that cost most
    are removed. The last batches are held out; codes are chosen from the others, or from the same one if there is only
    one.

    Attributes:
        held_out: the share of the batches that is held out, at least one batch.
        most_removed: the share of the activation quantizers that may be removed.
        least_gain: decibels of the output that the removal of a quantizer must gain.
        seconds: no further step is tried after this time; None for no limit.
    """

    held_out: float = attrs.field(default=0.2, converter=checked(number(0.0, 1.0)))
    most_removed: float = attrs.field(default=0.1, converter=checked(number(0.0, 1.0)))
    least_gain: float = attrs.field(default=0.5, converter=checked(number(0.0, 100.0)))
    seconds: float | None = attrs.field(default=None, converter=checked(_seconds))
