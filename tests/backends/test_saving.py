"""Saves that end early, by a failure or by SIGKILL at any step: the old artifact stays, whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graphpress.backends import saving
from graphpress.backends.errors import AssetError
from graphpress.ir import files

KINDS = {".aimodel": "metadata.json", ".mlpackage": "Manifest.json"}


def written(path: Path, mark: str, content: str) -> None:
    """An artifact in two files and a folder, as converters write them."""
    path.mkdir()
    (path / mark).write_text(content)
    (path / "Data").mkdir()
    (path / "Data" / "weight.bin").write_text(content)


def content(path: Path, mark: str) -> set[str]:
    return {(path / mark).read_text(), (path / "Data" / "weight.bin").read_text()}


def save(target: Path, mark: str, last: int, atomic: bool = True) -> tuple[int | None, int]:
    """Save over `target` in a process that is killed before its step number `last`: by which signal, after how many
    steps. A step is a call that may touch the file system.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        try:
            steps = _save_until(target, mark, last, atomic)
            os.write(writer, str(steps).encode())
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(process, 0)
    with os.fdopen(reader) as told:
        steps = int(told.read() or last)
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else None), steps


def _save_until(target: Path, mark: str, last: int, atomic: bool) -> int:
    steps, armed = 0, True

    def step(event: str, arguments: object) -> None:
        nonlocal steps
        if armed and (event.startswith(("os.", "shutil.")) or event == "open"):
            steps += 1
            if steps == last:
                os.kill(os.getpid(), signal.SIGKILL)

    exchange = files._exchange

    def stepping(first: Path, second: Path) -> bool:
        step("os.exchange", ())
        done = atomic and exchange(first, second)
        step("os.exchanged", ())
        return done

    files._exchange = stepping
    sys.addaudithook(step)
    with saving.replacing(target, target.suffix) as built:
        written(built, mark, "new")
    armed = False
    return steps


@pytest.mark.parametrize("suffix", KINDS)
def test_a_save_killed_at_any_step_leaves_the_old_artifact_or_the_new_one(suffix, tmp_path):
    mark, target = KINDS[suffix], tmp_path / f"m{suffix}"
    written(target, mark, "old")
    killed, steps = save(target, mark, 0)
    assert killed is None
    assert content(target, mark) == {"new"}
    assert steps > 8
    outcomes = []
    for last in range(1, steps + 1):
        shutil.rmtree(target)
        written(target, mark, "old")
        assert save(target, mark, last) == (signal.SIGKILL, last)
        found = content(target, mark)
        assert found in ({"old"}, {"new"}), f"killed at step {last} of {steps}"
        outcomes.append(next(iter(found)))
    assert outcomes == sorted(outcomes, reverse=True)  # once the new one is in place it stays
    assert {"old", "new"} == set(outcomes)


@pytest.mark.parametrize("suffix", KINDS)
def test_where_paths_cannot_be_swapped_a_kill_loses_neither_artifact(suffix, tmp_path):
    mark, target = KINDS[suffix], tmp_path / f"m{suffix}"
    written(target, mark, "old")
    _, steps = save(target, mark, 0, atomic=False)
    for last in range(1, steps + 1):
        for left in tmp_path.iterdir():
            shutil.rmtree(left)
        written(target, mark, "old")
        save(target, mark, last, atomic=False)
        if target.exists():
            assert content(target, mark) in ({"old"}, {"new"})
        else:  # for an instant the old artifact is beside its place
            (old,) = tmp_path.glob("*.partial/*.old")
            assert content(old, mark) == {"old"}
        with saving.replacing(target, suffix) as built:
            written(built, mark, "next")
        assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("atomic", [True, False], ids=["swapped", "renamed twice"])
def test_a_failure_of_any_rename_leaves_the_old_artifact(suffix, atomic, tmp_path, monkeypatch):
    mark, target = KINDS[suffix], tmp_path / f"m{suffix}"
    written(target, mark, "old")
    if not atomic:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    renames = 0 if atomic else 2
    rename = Path.rename
    for failing in range(renames):
        calls = iter(range(10))

        def fails(self, to, calls=calls, failing=failing):
            if next(calls) == failing:
                raise OSError(28, "No space left on device")
            return rename(self, to)

        monkeypatch.setattr(Path, "rename", fails)
        with (
            pytest.raises(AssetError, match=r"cannot write an asset at .*No space left"),
            saving.replacing(target, suffix) as built,
        ):
            written(built, mark, "new")
        monkeypatch.setattr(Path, "rename", rename)
        assert content(target, mark) == {"old"}
        assert list(tmp_path.iterdir()) == [target]
    with saving.replacing(target, suffix) as built:
        written(built, mark, "new")
    assert content(target, mark) == {"new"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_while_files_are_written_leaves_the_old_artifact_and_nothing_else(suffix, error, tmp_path):
    mark, target = KINDS[suffix], tmp_path / f"m{suffix}"
    written(target, mark, "old")

    def stopped() -> None:
        with saving.replacing(target, suffix) as built:
            written(built, mark, "new")
            raise error

    with pytest.raises(error):
        stopped()
    assert content(target, mark) == {"old"}
    assert list(tmp_path.iterdir()) == [target]


CONVERT = """
import sys, threading, time, os, signal
import torch
from torch import nn
from graphpress.backends import coreai, coreml

backend = {".aimodel": coreai, ".mlpackage": coreml}[sys.argv[2]]
print("started", flush=True)
backend.convert(nn.Linear(512, 512).eval(), sys.argv[1], (torch.randn(1, 512),))
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", KINDS)
def test_a_conversion_killed_at_any_time_leaves_an_artifact_that_can_be_read(suffix, tmp_path):
    pytest.importorskip("coreai_torch")
    pytest.importorskip("coremltools")
    import torch
    from torch import nn

    from graphpress.backends import coreai, coreml

    backend = {".aimodel": coreai, ".mlpackage": coreml}[suffix]
    target, old = tmp_path / f"m{suffix}", nn.Linear(512, 512).eval()
    backend.convert(old, target, (torch.randn(1, 512),))
    for seconds in (0.1, 0.5, 1.0):
        command = [sys.executable, "-c", CONVERT, str(target), suffix]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert backend.read(target).operations
    with torch.no_grad():
        assert backend.read(target).constants
