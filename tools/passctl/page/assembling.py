"""Assembly of the HTML page: data, style and script in one file without external resources."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import Any

from attrs import frozen

from graphpress.ir.plain import finite
from graphpress.tools.passctl.page.recording import Recording

_SCRIPTS = ("dom", "store", "skyline", "layout", "canvas", "minimap", "outline", "timeline", "details", "main")
"""The scripts in execution order; later ones use earlier definitions."""


@frozen
class Opening:
    """The initial view of the page.

    Attributes:
        focus: the selected node, shown with its neighbourhood only; None shows everything.
        hops: the size of the neighbourhood.
    """

    focus: str | None = None
    hops: int = 2


def page(recording: Recording, title: str, pipeline: str | None, opening: Opening | None = None) -> str:
    """Return the page of a run.

    Args:
        recording: the recorded run.
        title: the name of the model.
        pipeline: the pipeline as given by the user.
        opening: the initial view.
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
    """Return JSON in which no HTML parser finds markup, whatever names it contains."""
    try:
        text = _json(data)
    except ValueError:  # infinities and NaN, which JSON does not have
        text = _json(finite(data))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
