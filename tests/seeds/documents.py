"""Run the code blocks of the user's documents, with only the package name changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def code_blocks(document: str, language: str = "python") -> list[str]:
    """The fenced blocks of a document, in order, with the package name changed."""
    text = (HERE / document).read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [block.replace("coreai_opt", "graphpress") for block in blocks]


def run_blocks(document: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Execute every block in one namespace, as a reader who types them one after the other would."""
    for number, block in enumerate(code_blocks(document), 1):
        exec(compile(block, f"{document}, block {number}", "exec"), namespace)
    return namespace
