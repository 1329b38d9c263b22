"""Campaigns: cases of one format in a child process, which may be killed by what it reads."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field, frozen

from tests.fuzzing.formats import Format
from tests.fuzzing.guard import Outcome, address_space, run_case
from tests.fuzzing.mutation import mutate_files

ADDRESSES = 4 * 2**30
"""Bytes of addresses that a child may add to those of its parent; a larger allocation fails in it."""
LEAST = 3
"""Cases that a child runs even when its time is over."""
SILENCE = 180.0
"""Seconds without a word from a child, after which it is taken for stuck."""
_INVALID = 70  # the status of a child for which a file that is not mutated fails


@frozen
class Find:
    """A case that went against the property."""

    format: str
    seed: int
    failure: str
    trace: str = ""


@define
class Report:
    """What a campaign did.

    Attributes:
        read, refused: cases whose files were read, and refused.
        finds: the others.
    """

    read: int = 0
    refused: int = 0
    finds: list[Find] = field(factory=list)


def make_seeds(format: Format, folder: Path) -> None:
    """Write the valid files of a format, in a child process.

    Raises:
        RuntimeError: if it fails.
    """
    folder.mkdir(parents=True)
    if os.waitstatus_to_exitcode(os.waitpid(_fork(lambda: format.make(folder)), 0)[1]):
        raise RuntimeError(f"no valid files of {format.name}")


def files_of(seeds: Path, format: str, seed: int) -> dict[str, bytes]:
    """The files of the case `seed`: one of the valid ones, mutated."""
    random = Random(f"{format} {seed}")
    start = random.choice(sorted(path for path in seeds.iterdir() if path.is_dir()))
    return mutate_files(random, _contents(start))


def run_campaign(format: Format, seeds: Path, first: int, cases: int | None, until: float) -> Report:
    """Run the cases `first`, `first` + 1 and so on: `cases` of them, or until `until` of the monotonic clock."""
    report, seed = Report(), first
    while time.monotonic() < until and (cases is None or seed < first + cases):
        last, death = seed, ""
        for last, outcome in _outcomes(format, seeds, seed, None if cases is None else first + cases, until):
            if outcome is None:
                continue
            if isinstance(outcome, str):
                death = outcome
            elif outcome.failure:
                report.finds.append(Find(format.name, last, outcome.failure, outcome.trace))
            elif outcome.refusal:
                report.refused += 1
            else:
                report.read += 1
        if not death:
            break
        report.finds.append(Find(format.name, last, death))
        seed = last + 1
    return report


def _outcomes(
    format: Format, seeds: Path, first: int, end: int | None, until: float
) -> Iterator[tuple[int, Outcome | str | None]]:
    """Yield each seed when it starts, with None, and when it ends, with its outcome; at last the child's death."""
    reading, writing = os.pipe()
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def work() -> None:
        os.close(reading)
        limit = address_space() + ADDRESSES
        if limit > ADDRESSES:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        tempfile.tempdir = str(scratch)
        os.environ["TMPDIR"] = str(scratch)
        for start in sorted(path for path in seeds.iterdir() if path.is_dir()):
            _run(format.check, scratch, _contents(start))  # lazy imports are no part of a case
            whole = _run(format.check, scratch, _contents(start))
            if whole.failure or whole.refusal:
                print(
                    f"{start} is not valid: {whole.failure or whole.refusal}\n{whole.trace}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(_INVALID)
        seed = first
        while (seed < first + LEAST or time.monotonic() < until) and seed != end:
            _say(writing, [seed])
            outcome = _run(format.check, scratch, files_of(seeds, format.name, seed))
            _say(writing, [seed, outcome.failure, outcome.refusal[:500], outcome.trace])
            seed += 1

    child = _fork(work)
    os.close(writing)
    seed = first
    stuck = False
    try:
        for message in _messages(reading):
            if message is None:
                stuck = True
                os.kill(child, signal.SIGKILL)
                break
            seed = message[0]
            yield seed, Outcome(*message[1:]) if len(message) > 1 else None
    finally:
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        shutil.rmtree(scratch, ignore_errors=True)
    if status == _INVALID:
        raise RuntimeError(f"a valid file of {format.name} does not keep the property")
    if stuck:
        yield seed, f"stuck: no result within {SILENCE:.0f} s"
    elif status == -signal.SIGPROF:
        yield seed, "hang: twice the CPU time that the size of the file allows"
    elif status < 0:
        yield seed, f"abort: the process was ended by {signal.Signals(-status).name}"
    elif status > 0:
        yield seed, f"abort: the process ended with {status}"


def _run(check: Callable[[Path], None], scratch: Path, files: dict[str, bytes]) -> Outcome:
    for left in scratch.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    write_files(scratch / "case", files)
    return run_case(check, scratch / "case", sum(map(len, files.values())))


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files to a new folder."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _say(pipe: int, message: list[Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(pipe, data) :]


def _messages(pipe: int) -> Iterator[list[Any] | None]:
    """Yield what a child says; None when it says nothing for too long."""
    left = b""
    while True:
        if not select.select([pipe], [], [], SILENCE)[0]:
            yield None
            return
        data = os.read(pipe, 1 << 16)
        if not data:
            return
        *lines, left = (left + data).split(b"\n")
        yield from (json.loads(line) for line in lines)


def _fork(work: Callable[[], None]) -> int:
    """Do `work` in a child process, which says nothing on the terminal but its traceback; return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)
