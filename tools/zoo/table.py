"""The page of the zoo, and the report of failures, from the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.judging import SIDES, Gap, Records, Whose, failures, gap, grouped, works

_OUTLIER = 0.2
_SLOW = 4.0


def by_model(records: Mapping[tuple[str, str], dict[str, Any]]) -> dict[str, Records]:
    """Return the records of each architecture by stage."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (model, stage), record in records.items():
        found.setdefault(model, {})[stage] = record
    return dict(found)


def page(models: Mapping[str, ZooModel], results: Mapping[str, Records]) -> str:
    """Return `docs/zoo.md`."""
    known = {name: results[name] for name in models if name in results}
    return "\n".join([*_INTRODUCTION, *_summary(len(models), known), "", *_rows(models, known), ""])


_INTRODUCTION = (
    "# The zoo",
    "",
    "Small architectures with random weights through every stage: export, capture, text, compression, conversion to",
    "both backends, execution. `make zoo` runs what the results lack and writes this page; `make zoo-quick` runs 15 of",
    "them in CI through fewer stages, and fails if one that is listed as working stops working.",
    "",
    "- *torch*, *Core AI*, *Core ML*: whether every stage of that side that has run works. Core AI assets run in the",
    "  real runtime, Core ML programs in the IR's interpreter, and both are compared with the finalized module.",
    "- *dB*: signal to noise of the default W8A8 model's outputs against the float model's, pooled over sets, each",
    "  with weights, six calibration batches and four batches of outputs of its own; the peer, coreai-opt 0.4.0, has",
    "  the same. The difference has a standard error over the sets, which it must exceed to count. Class tokens,",
    "  position biases and layer scales, which start at zero, have the size that training gives them.",
    "- *ops*: operations that an inference executes in the Core AI program, those of a function at every call of it.",
    "  *s*: CPU seconds of `prepare`, in a process that has prepared before.",
    "- *stops at*: the first failure, and whose it is: ours, the converter's alone, or torch.export's. Where the",
    "  converter has not run alone on the float model, it is either's.",
    "",
)


def _summary(count: int, results: Mapping[str, Records]) -> Iterator[str]:
    covered = f"**This page covers {len(results)} of the zoo's {count} architectures**"
    yield f"{covered}; {count - len(results)} have no results yet."
    yield f"Stages that have run: {', '.join(f'`{each}`' for each in _stages(results))}."
    yield f"Calibration sets of each architecture: {_calibration_sets(results)}."
    yield ""
    yield "| side | works | of | share |"
    yield "|---|---|---|---|"
    for side in SIDES:
        verdicts = [verdict for each in results.values() if (verdict := works(each, side)) is not None]
        if verdicts:
            yield f"| {side} | {sum(verdicts)} | {len(verdicts)} | {sum(verdicts) / len(verdicts):.0%} |"
    for label, stage in (("Core AI's converter alone", "coreai:alone"), ("coremltools alone", "coreml:alone")):
        ran = [each[stage]["status"] == "ok" for each in results.values() if stage in each]
        if ran:
            yield f"| {label} | {sum(ran)} | {len(ran)} | {sum(ran) / len(ran):.0%} |"
    yield ""
    yield from _beside_peer(results)
    hours = sum(record.get("cpu") or 0.0 for records in results.values() for record in records.values()) / 3600
    yield f"All stages of this page took {hours:.1f} CPU hours."


def _beside_peer(results: Mapping[str, Records]) -> Iterator[str]:
    """Compare the figures of the architectures for which both sides have them."""
    pairs = {
        figure: {
            name: (ours, peer)
            for name, records in results.items()
            for ours, peer in [tuple(_value(records, stage, figure) for stage in stages)]
            if ours is not None and peer is not None
        }
        for figure, stages in _FIGURES
    }
    if not pairs["decibels"]:
        return
    decibels, operations, seconds = (pairs[figure] for figure in ("decibels", "ops", "prepare"))
    mine, theirs = (sum(side) / len(decibels) for side in zip(*decibels.values(), strict=True))
    gaps = {name: found for name in decibels if (found := gap(results[name])) and found.decibels > _OUTLIER}
    below = [_gap(*each) for each in gaps.items() if each[1].exceeds(_OUTLIER)]
    chance = [_gap(*each) for each in gaps.items() if not each[1].exceeds(_OUTLIER)]
    yield f"Decibels of the {len(decibels)} that both sides quantize: {mine:.1f} on the mean, the peer {theirs:.1f};"
    yield f"more than {_OUTLIER} below the peer: {', '.join(below) or 'none'};"
    yield f"more than {_OUTLIER} below, but not by its standard error: {', '.join(chance) or 'none'}."
    if operations:
        mine, theirs = (sum(side) for side in zip(*operations.values(), strict=True))
        more = [name for name, (ours, peer) in operations.items() if ours > peer]
        yield f"Operations of the {len(operations)} that both sides convert: {mine:,.0f}, the peer {theirs:,.0f};"
        yield f"more than the peer: {', '.join(more) or 'none'}."
    mine, theirs = (sum(side) for side in zip(*seconds.values(), strict=True))
    yield f"CPU seconds of `prepare`, {len(seconds)} architectures: {mine:.0f}, the peer {theirs:.0f}."


def _gap(name: str, found: Gap) -> str:
    error = "" if found.error is None else f" ± {found.error:.1f}"
    return f"{name} ({found.decibels:.1f}{error})"


def _stages(results: Mapping[str, Records]) -> list[str]:
    return list(dict.fromkeys(stage for records in results.values() for stage in records))


def _calibration_sets(results: Mapping[str, Records]) -> str:
    figures = [record["figures"] for records in results.values() for record in records.values()]
    counts = sorted({each["calibration sets"] for each in figures if "calibration sets" in each})
    return " or ".join(map(str, counts)) or "none"


def _rows(models: Mapping[str, ZooModel], results: Mapping[str, Records]) -> Iterator[str]:
    yield "| model | torch | Core AI | Core ML | dB ours | dB peer | ops ours | ops peer | s ours | s peer | stops at |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    family = ""
    for name, records in results.items():
        if models[name].family != family:
            family = models[name].family
            yield f"| **{family}** | | | | | | | | | | |"
        marks = [{True: "yes", False: "no", None: ""}[works(records, side)] for side in SIDES]
        cells = [_figure(records, stage, figure) for figure, stages in _FIGURES for stage in stages]
        mine = [each for each in failures(name, records) if each.whose is not Whose.PEER]
        first = f"{mine[0].stage} ({mine[0].whose.value})" if mine else ""
        yield f"| {name} | {' | '.join(marks)} | {' | '.join(cells)} | {first} |"


_FIGURES = (
    ("decibels", ("w8a8", "peer")),
    ("ops", ("coreai:w8a8", "peer:coreai")),
    ("prepare", ("w8a8", "peer")),
)


def _figure(records: Records, stage: str, figure: str) -> str:
    value = _value(records, stage, figure)
    return "" if value is None else f"{value:g}" if isinstance(value, int) else f"{value:.1f}"


def _value(records: Records, stage: str, figure: str) -> float | None:
    found: float | None = records.get(stage, {}).get("figures", {}).get(figure)
    return found


def failure_report(results: Mapping[str, Records]) -> str:
    """Return the groups of failures, the outliers of accuracy, and slow preparations."""
    found = [failure for name, records in results.items() for failure in failures(name, records)]
    lines = [f"# Failures of the zoo: {len(results)} architectures with results", ""]
    for shape, group in grouped(found):
        lines += [f"## {len(group)}: {shape}", "", f"    {group[0].error[:500]}", ""]
        lines += [f"- {each.model}, {each.stage}" for each in group]
        names = list(dict.fromkeys(each.model for each in group))
        stages = " ".join(dict.fromkeys(each.stage for each in group))
        lines += ["", f"`python -m graphpress.tools.zoo run '{names[0]}' --rerun failed --stages {stages}`", ""]
    lines += ["## Decibels more than 0.2 below the peer's, ours / peer", "", *_outliers(results), ""]
    lines += ["## Preparations of more than 4 times the export, seconds", "", *_slow(results), ""]
    return "\n".join(lines)


def _outliers(results: Mapping[str, Records]) -> Iterable[str]:
    for name, records in results.items():
        ours, peer = (_value(records, stage, "decibels") for stage in ("w8a8", "peer"))
        found = gap(records)
        if ours is not None and ((found is not None and found.exceeds(_OUTLIER)) or ours < 5):
            yield f"- {name}: {ours} / {peer}"


def _slow(results: Mapping[str, Records]) -> Iterable[str]:
    for name, records in results.items():
        exported = records.get("export", {}).get("figures", {}).get("export")
        prepared = records.get("w8a8", {}).get("figures", {}).get("prepare")
        if exported and prepared and prepared > _SLOW * exported:
            yield f"- {name}: {prepared:.1f} / {exported:.1f} = {prepared / exported:.1f}"
