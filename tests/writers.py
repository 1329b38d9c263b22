"""What holds of every form of saved files while writers are killed, race, or get no space."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from attrs import frozen

from graphpress import GraphpressError
from graphpress.ir import load_graph, save_graph
from graphpress.ir.files import replacing_folder, write_file
from graphpress.ir.graph import Graph

NEEDS_FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="writers are forked")
SIZE = 20_000


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of `size`, such as 4m, at a new folder; the test is skipped where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


@frozen
class Form:
    """A form of saved files.

    Attributes:
        save: writes a version, a digit, to a folder.
        read: returns the versions that the files in a folder hold, as text.
        names: of the files that a save leaves.
    """

    save: Callable[[Path, int], object]
    read: Callable[[Path], set[str]]
    names: list[str]


def graph_of(value: float) -> Graph:
    graph = Graph()
    graph.add_constant("a", torch.full((SIZE,), value))
    graph.add_constant("b", torch.full((SIZE,), value + 0.5))
    return graph


def versions_in(graph: Graph) -> set[str]:
    """The versions of the constants of a graph."""
    return {str(int(float(x))) for constant in graph.constants.values() for x in constant.tensor.unique()}


def save_text(folder: Path, value: int) -> None:
    write_file(folder / "file", str(value) * SIZE)


def read_text(folder: Path) -> set[str]:
    return set((folder / "file").read_text())


def save_gir(folder: Path, value: int) -> None:
    save_graph(graph_of(value), folder / "model.gir")


def read_gir(folder: Path) -> set[str]:
    return versions_in(load_graph(folder / "model.gir"))


def save_folder(folder: Path, value: int) -> None:
    with replacing_folder(folder / "target") as built:
        built.mkdir()
        for name in "ab":
            (built / name).write_text(str(value) * SIZE)


def _text(handle: int) -> str:
    try:
        return os.read(handle, SIZE).decode()
    finally:
        os.close(handle)


def read_folder(folder: Path) -> set[str]:
    # A folder is exchanged as a whole: files of one open folder are of one version.
    handle = os.open(folder / "target", os.O_RDONLY)
    try:
        texts = [_text(os.open(name, os.O_RDONLY, dir_fd=handle)) for name in "ab"]
    except FileNotFoundError:  # deleted after an exchange
        return set("1")
    finally:
        os.close(handle)
    return set("".join(texts))


def forked(work: Callable[[], object]) -> int:
    process = os.fork()
    if not process:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return process


def forever(save: Callable[[Path, int], object], folder: Path, value: int) -> None:
    while True:
        save(folder, value)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def check_kills(form: Form, folder: Path, kills: int, seconds: float) -> None:
    """Kill writers within `seconds`: a version is whole at any time, and the next save deletes what they left."""
    form.save(folder, 1)
    delays = random.Random(0)
    for _ in range(kills):
        writer = forked(lambda: forever(form.save, folder, 2))
        time.sleep(delays.uniform(0, seconds))
        kill(writer)
        assert form.read(folder) in ({"1"}, {"2"})
    form.save(folder, 3)
    assert form.read(folder) == {"3"}
    assert sorted(os.listdir(folder)) == form.names


def check_two_writers(form: Form, folder: Path, seconds: float) -> None:
    """Read for `seconds` while two write: each read finds one whole version, and none of the three fails."""
    form.save(folder, 1)
    writers = [forked(lambda value=value: forever(form.save, folder, value)) for value in (1, 2)]
    try:
        end, loads = time.monotonic() + seconds, 0
        while time.monotonic() < end or loads < 2:
            assert form.read(folder) in ({"1"}, {"2"})
            loads += 1
        assert [os.waitpid(writer, os.WNOHANG) for writer in writers] == [(0, 0), (0, 0)]  # none failed
    finally:
        for writer in writers:
            kill(writer)


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_file_size_limit(form: Form, folder: Path, size: int = 2000) -> None:
    """Save under a limit on the size of files: it is refused by an error of ours, and the old version stays."""
    form.save(folder, 1)

    def refused() -> None:
        with _files_of_at_most(size), pytest.raises(GraphpressError, match="File too large"):
            form.save(folder, 2)

    writer = forked(refused)  # a native library may end the process
    assert os.waitpid(writer, 0)[1] == 0
    assert form.read(folder) == {"1"}
    assert sorted(os.listdir(folder)) == form.names
