"""Run the code blocks of documents: the project's own pages, and the documents that users come from.

A page is run in a test of its own::

    def test_the_pages_code_runs(tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        namespace = page("docs/extending.md").run()

Blocks are those fenced as ``python``; one fenced as ``python requires torchao`` is left out where torchao is not
installed. Blocks in other languages, or indented ones, are for reading only; `Document.blocks` finds them too.

A page that writes files and runs commands is followed instead, by `Document.follow`: a block whose first line is the
name of a file, ``# my_passes.py`` or ``# config.yaml``, is written to it, and the commands of ``sh`` blocks are run;
the number in a comment behind one is its exit code.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from attrs import frozen

ROOT = Path(__file__).parent.parent
SEEDS = Path(__file__).parent / "seeds"

_FENCE = re.compile(r"^```([\w+-]*)(?: requires (\w+))?[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


@frozen
class Block:
    """A fenced block.

    Attributes:
        line: the number of the line on which it starts.
        language: the word after the fence; empty where there is none.
        needs: a package without which the block does not run; None for most.
        code: the text.
    """

    line: int
    language: str
    needs: str | None
    code: str

    @property
    def can_run(self) -> bool:
        """False where a package that the block needs is not installed."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


@frozen
class Document:
    """A document by its path and text."""

    path: Path
    text: str

    def blocks(self, language: str = "python") -> list[Block]:
        """The blocks in a language, in order."""
        return [block for block in self._fenced() if block.language == language]

    def run(self, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
        """Execute every Python block in one namespace, as a reader who types them one after the other would."""
        blocks = self.blocks()
        assert blocks, f"{self.path.name} has no Python blocks"
        namespace = {} if namespace is None else namespace
        namespace.setdefault("__name__", self.path.stem)
        for block in blocks:
            if block.can_run:
                code = "\n" * block.line + block.code  # so that tracebacks name the document's lines
                exec(compile(code, str(self.path), "exec"), namespace)
        return namespace

    def follow(self, namespace: dict[str, Any] | None = None) -> list[str]:
        """Do all that the page says, in the current directory; return what the commands print on stdout.

        Tools are those installed beside this Python.
        """
        namespace = {} if namespace is None else namespace
        namespace.setdefault("__name__", self.path.stem)
        printed = []
        for block in self._fenced():
            name = re.match(r"# (\w+\.(?:py|yaml))\n", block.code)
            if block.language in ("python", "yaml") and name is not None:
                Path(name[1]).write_text(block.code, encoding="utf-8")
            elif block.language == "python":
                exec(compile("\n" * block.line + block.code, str(self.path), "exec"), namespace)
            elif block.language == "sh":
                printed += [self._run(command) for command in block.code.splitlines()]
        return printed

    def _run(self, command: str) -> str:
        line, _, code = command.partition("  # ")
        tool, *arguments = shlex.split(line)
        done = subprocess.run(
            [Path(sys.executable).with_name(tool), *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == int(code or 0), f"{line}\nexits with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def _fenced(self) -> list[Block]:
        found = []
        for match in _FENCE.finditer(self.text):
            line = self.text.count("\n", 0, match.start()) + 1
            found.append(Block(line, match[1], match[2], match[3]))
        fences = len(re.findall(r"^```", self.text, re.MULTILINE))
        assert fences == 2 * len(found), f"{self.path.name} has a fence that is not closed or not understood"
        return found


def page(name: str) -> Document:
    """A page of the project, by its path from the top."""
    path = ROOT / name
    return Document(path, path.read_text(encoding="utf-8"))


def seed(name: str) -> Document:
    """A document that users come from, with the package name changed and nothing else."""
    path = SEEDS / name
    return Document(path, path.read_text(encoding="utf-8").replace("coreai_opt", "graphpress"))
