"""The stages of a long command: shown while they run, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graphpress.tools.passctl import console


class Stages:
    """Seconds by stage. On a terminal, stages under way are shown live; elsewhere each is a line once it is done."""

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
        """Say how far the stage under way is."""
        if self._display is not None:
            self._display.update(self._task, description=text)
