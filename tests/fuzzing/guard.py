"""One case under its bounds: what is read, in how much CPU time and memory, and where it writes."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from graphpress import GraphpressError

SECONDS, SECONDS_PER_BYTE = 3.0, 50e-6
MEMORY, MEMORY_PER_BYTE = 64 * 2**20, 200
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")


@frozen
class Outcome:
    """What became of a case.

    Attributes:
        failure: what went against the property, in one line; empty when nothing did.
        refusal: the error of ours that the reader raised; empty when the file was read.
        trace: the traceback of the failure.
    """

    failure: str = ""
    refusal: str = ""
    trace: str = ""


def run_case(check: Callable[[Path], None], folder: Path, size: int) -> Outcome:
    """Read the files in `folder`, of `size` bytes in all, and check what comes of it.

    The process is killed by SIGPROF when the case takes twice the CPU time that it may.
    """
    before = _listing(folder)
    most_seconds, most_memory = SECONDS + SECONDS_PER_BYTE * size, MEMORY + MEMORY_PER_BYTE * size
    refusal = failure = trace = ""
    _reset_peak()
    resident = _status("VmRSS")
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 2 * most_seconds)
    try:
        with _watching(folder.parent) as touched:
            check(folder)
    except GraphpressError as error:
        refusal = f"{type(error).__name__}: {error}"
    except Exception as error:
        failure, trace = _described(error), traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, memory = time.process_time() - started, _status("VmHWM") - resident
    if failure:
        pass
    elif touched:
        failure = f"touched {touched[0]}"
    elif _listing(folder) != before:
        failure = "changed the files that it read"
    elif seconds > most_seconds:
        failure = f"took {seconds:.1f} s of CPU time for {size} bytes; allowed {most_seconds:.1f}"
    elif memory > most_memory:
        failure = f"took {memory >> 20} MB for {size} bytes; allowed {most_memory >> 20}"
    elif len(refusal) > 4000 + 2 * size:
        failure = f"refused by an error of {len(refusal)} characters"
    return Outcome(failure, refusal, trace)


def _described(error: Exception) -> str:
    """An error, with the innermost function of ours that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "graphpress" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "no function of ours"
    return f"{type(error).__name__} in {where}: {' '.join(str(error).split())[:200]}"


def _listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


# What Python touches.

_watched: list[tuple[str, list[str]]] = []
_hooked: list[bool] = []


@contextmanager
def _watching(allowed: Path) -> Iterator[list[str]]:
    """Collect the files outside of `allowed` that are written, and the processes that are started."""
    if not _hooked:
        sys.addaudithook(_audit)  # which stays for the life of the process
        _hooked.append(True)
    touched: list[str] = []
    _watched.append((str(allowed.resolve()) + os.sep, touched))
    # A module of ours that the reader imports now is compiled, and Python would keep its bytecode beside it.
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield touched
    finally:
        sys.dont_write_bytecode = bytecode
        _watched.pop()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    allowed, touched = _watched[-1]
    if event in _STARTS:
        touched.append(f"a process or a connection: {event}{arguments[:2]!r}"[:200])
    elif event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes) and isinstance(flags, int) and flags & _WRITING:
            _note(event, path, allowed, touched)
    elif event in _CHANGES:
        for path in arguments[:2]:
            if isinstance(path, str | bytes):
                _note(event, path, allowed, touched)


def _note(event: str, path: str | bytes, allowed: str, touched: list[str]) -> None:
    place = os.path.realpath(os.fsdecode(path))
    if not (place + os.sep).startswith(allowed) and place != os.devnull:
        touched.append(f"{place} by {event}")


# Memory, as Linux counts it; elsewhere it is not bounded.


def _status(name: str) -> int:
    """The bytes in a line of the process's status; 0 where the system has none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def address_space() -> int:
    """The bytes of addresses that the process has."""
    return _status("VmSize")


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
