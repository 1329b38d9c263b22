"""The page itself: data, style and script in one file that asks nobody for anything."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import Any

from attrs import frozen

from graphpress.ir.plain import finite
from graphpress.tools.passctl.page.recording import Recording

_SCRIPTS = ("dom", "store", "skyline", "layout", "canvas", "minimap", "outline", "timeline", "details", "main")
"""In the order they are run; later ones use what earlier ones define."""


@frozen
class Opening:
    """What the page shows when it is opened.

    Attributes:
        focus: the node selected, with its surroundings alone; None shows everything.
        hops: how far the surroundings reach.
    """

    focus: str | None = None
    hops: int = 2


def page(recording: Recording, title: str, pipeline: str | None, opening: Opening | None = None) -> str:
    """The page of a run.

    Args:
        recording: of the run.
        title: what the model is called.
        pipeline: as it was asked for.
        opening: what is shown first.
    """
    opening = opening or Opening()
    data = {
        "title": title,
        "pipeline": pipeline,
        "opening": {"focus": opening.focus, "hops": opening.hops},
        "pool": recording.encoder.pool,
        "inputs": recording.inputs,
        "steps": recording.steps,
    }
    parts = {
        "title": escape(title),
        "style": _asset("page.css"),
        "data": _script_safe(data),
        "script": "\n".join(_asset(f"{name}.js") for name in _SCRIPTS),
    }
    text = _asset("page.html")
    for name, part in parts.items():
        before, after = text.split(f"<!--{name}-->")
        text = before + part + after
    return text


def _asset(name: str) -> str:
    return (files("graphpress.tools.passctl.page") / "assets" / name).read_text(encoding="utf-8")


def _script_safe(data: Any) -> str:
    """JSON that no HTML parser takes for markup, whatever names are in it."""
    try:
        text = _json(data)
    except ValueError:  # infinities and NaN, which JSON does not have
        text = _json(finite(data))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
