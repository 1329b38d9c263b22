"""The quick subset: small architectures of all families that work, and must go on working."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from graphpress.ir.errors import GraphpressError
from graphpress.tools.zoo.running import Runner
from graphpress.tools.zoo.worker.forking import Order

STAGES = (
    *("export", "capture", "text", "w8a8", "w4", "p4"),
    *("coreai:w8a8", "coreai:w4", "coreai:p4", "coreml:w8a8", "coreml:w4", "states"),
)
MODELS = (
    *("opt", "qwen3", "olmoe", "bert", "t5", "vit", "timm mobilenetv2_035", "wav2vec2"),
    *("lstm tagger", "wavenet", "super resolution", "cross attention", "squeeze excite", "graph convolution"),
    "cached attention",
)
KNOWN_FAILURES: Mapping[tuple[str, str], str] = {}
"""Failed stages by architecture and stage, with a part of the error; one that works again is taken from here."""
CALIBRATION_SETS = 1
AT_ONCE = 2


class BrokenZooError(GraphpressError):
    """An architecture of the quick subset does not do what is listed."""


def check(runner: Runner) -> None:
    """Run the subset.

    Raises:
        BrokenZooError: naming every stage that differs from the list.
    """
    order = Order("ours", dict.fromkeys(MODELS, STAGES), AT_ONCE, CALIBRATION_SETS)
    broken = differences(runner.run(order))
    if broken:
        raise BrokenZooError(f"{len(broken)} stages differ from the list:\n" + "\n".join(broken))


def differences(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each stage that fails without being listed, or is listed and works."""
    lines = []
    for record in records:
        name, error = f"{record['model']}, {record['stage']}", str(record["error"])
        listed = KNOWN_FAILURES.get((record["model"], record["stage"]))
        worked = record["status"] == "ok" or (record["status"] == "skipped" and error.startswith("no "))
        if worked and listed is not None:
            lines.append(f"{name}: works; it is listed as failing with {listed!r}")
        elif not worked and (listed is None or listed not in error):
            lines.append(f"{name}: {error}")
    return lines
