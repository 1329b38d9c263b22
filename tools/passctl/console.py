"""Text and JSON to stdout, reports and errors to stderr; colour on terminals only."""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.text import Text

from graphpress.ir.errors import GraphpressError
from graphpress.tools.passctl import console

if TYPE_CHECKING:
    from rich.console import Console


class PassctlError(GraphpressError):
    """A request on the command line that cannot be fulfilled."""


class ModelArgumentError(PassctlError):
    """A MODEL that cannot be loaded."""


class InputDataError(PassctlError):
    """Example or calibration data that cannot be read, or does not fit the model."""


# Alternatives are tried in order: strings and comments first, so that nothing inside them is highlighted.
_TOKENS = re.compile(
    r"""(?P<comment>//[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<value>%[\w.]+(?:\#\d+)?)
      | (?P<constant>@[\w.]+)
      | (?P<type>\b(?:[fiu]\d+\w*|bf16|bool)(?=\[)\[[^\]]*\])
      | (?P<op>\b(?:aten|quant|fold|coreai|sym|hop|prim)\.[\w.]+)
      | (?P<location>\bloc\([\d, ]*\))
      | (?P<keyword>\b(?:graph|symbol|input|const|return|mutate|signature|locations|scope|origin)\b)""",
    re.VERBOSE,
)
_STYLES = {
    "comment": "bright_black",
    "string": "green",
    "value": "cyan",
    "constant": "magenta",
    "type": "yellow",
    "op": "bold",
    "location": "bright_black",
    "keyword": "blue",
}


def highlighted(text: str) -> Text:
    """Return `text` with a style for every token."""
    made = Text(text)
    for token in _TOKENS.finditer(text):
        assert token.lastgroup is not None
        made.stylize(_STYLES[token.lastgroup], *token.span())
    return made


TRACEBACK = "graphpress.traceback"
"""Key in click's `Context.meta` for whether errors are shown with their traceback."""


def print_json(data: Any) -> None:
    """Print `data` as one JSON document on stdout; see `json_text`."""
    print_text(json_text(data))


def json_text(data: Any) -> str:
    """`data` as JSON; infinities and NaN, which JSON does not have, become strings."""
    from graphpress.ir.plain import finite

    return json.dumps(finite(data), indent=2) + "\n"


def print_text(text: str) -> None:
    """Print plain text on stdout."""
    click.echo(text.rstrip("\n"))


def print_ir(text: str) -> None:
    """Print the text form of a graph on stdout, highlighted on a terminal."""
    if not sys.stdout.isatty():
        print_text(text)
        return

    stdout_console().print(highlighted(text.rstrip("\n")), soft_wrap=True)


def report(message: str) -> None:
    """Print a remark on stderr."""
    click.echo(message, err=True)


def report_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stderr; see `table`."""
    stderr_console().print(table(title, columns, rows))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """Return a rich table with right-aligned columns except the first; without `columns` it has no header."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(title, style="bold") if title else None
    made = Table(
        title=heading,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        show_header=bool(columns),
    )
    for place, column in enumerate(columns or [""] * max(map(len, rows), default=0)):
        made.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def stderr_console() -> Console:
    """Return a rich console on the current stderr."""
    return _console(sys.stderr)


def stdout_console() -> Console:
    """Return a rich console on the current stdout."""
    return _console(sys.stdout)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # Files have no width limit, and wrapped names could not be searched for.
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _FILE_WIDTH)


_FILE_WIDTH = 200


def report_error(error: BaseException, with_traceback: bool) -> None:
    """Print an error on stderr: graphpress errors as messages, others, which are defects, with traceback."""
    from traceback import format_exception

    from graphpress.ir.errors import GraphpressError

    if with_traceback or not isinstance(error, GraphpressError):
        report("".join(format_exception(error)).rstrip())
        return
    lines = [str(error), *getattr(error, "__notes__", ())]
    click.echo(f"{click.style('error:', fg='red', bold=True)} " + "\n".join(lines), err=True)


@contextmanager
def warnings_reported() -> Iterator[list[str]]:
    """Report graphpress's warnings in one line each, and silence those of libraries about themselves."""
    shown: list[str] = []

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        text = str(message)
        if category.__module__.partition(".")[0] == "graphpress" and text not in shown:
            shown.append(text)
            click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        click.get_current_context().meta[_WARNINGS] = shown
        yield shown


def warnings_shown() -> list[str]:
    """Return the warnings reported so far."""
    shown: list[str] = click.get_current_context().meta.get(_WARNINGS, [])
    return list(shown)


_WARNINGS = "graphpress.warnings"


class Stages:
    """Seconds per stage; shown live on a terminal, elsewhere as one line per finished stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._display: Any = None
        self._task: Any = None

    def __enter__(self) -> Stages:
        stderr = console.stderr_console()
        if stderr.is_terminal:
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
            self._display = Progress(*columns, console=stderr)
            self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._display is not None:
            self._display.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body under `name`; a body that raises is not counted."""
        if self._display is not None:
            self._task = self._display.add_task(name, total=None)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        if self._display is not None:
            self._display.update(self._task, total=1, completed=1)
        else:
            console.report(f"{name}: {self.seconds[name]:.1f} s")

    def note(self, text: str) -> None:
        """Show the progress of the current stage."""
        if self._display is not None:
            self._display.update(self._task, description=text)
