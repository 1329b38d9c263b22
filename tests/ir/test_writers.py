"""Several writers, killed writers and full disks: a reader sees one whole version, and the next save cleans up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from graphpress.ir import StorageError, load_graph, save_graph
from graphpress.ir.files import FileError, replacing_folder, write_file
from graphpress.ir.graph import Graph
from graphpress.ir.tensors import write_archive

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="writers are forked")
SIZE = 20_000


def graph_of(value: float) -> Graph:
    graph = Graph()
    graph.add_constant("a", torch.full((SIZE,), value))
    graph.add_constant("b", torch.full((SIZE,), value + 0.5))
    return graph


def save_text(folder: Path, value: int) -> None:
    write_file(folder / "file", str(value) * SIZE)


def read_text(folder: Path) -> set[str]:
    return set((folder / "file").read_text())


def save_gir(folder: Path, value: int) -> None:
    save_graph(graph_of(value), folder / "model.gir")


def read_gir(folder: Path) -> set[str]:
    constants = load_graph(folder / "model.gir").constants
    return {str(int(float(x))) for name in ("a", "b") for x in constants[name].tensor.unique()}


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


FORMS = {"file": (save_text, read_text), "gir": (save_gir, read_gir), "folder": (save_folder, read_folder)}
NAMES = {"file": ["file"], "gir": ["model.gir", "model.safetensors"], "folder": ["target"]}


def forked(work: Callable[[], object]) -> int:
    process = os.fork()
    if not process:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return process


def forever(save: Callable[[Path, int], None], folder: Path, value: int) -> None:
    while True:
        save(folder, value)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_writers_killed_at_any_time_leave_a_whole_version_and_the_next_save_cleans_up(tmp_path, form, kills):
    save, read = FORMS[form]
    save(tmp_path, 1)
    delays = random.Random(0)
    for _ in range(kills):
        writer = forked(lambda: forever(save, tmp_path, 2))
        time.sleep(delays.uniform(0, 0.02))
        kill(writer)
        assert read(tmp_path) in ({"1"}, {"2"})
    save(tmp_path, 3)
    assert read(tmp_path) == {"3"}
    assert sorted(os.listdir(tmp_path)) == NAMES[form]


@pytest.mark.parametrize("seconds", [0.5, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_a_reader_sees_one_whole_version_while_two_write(tmp_path, form, seconds):
    save, read = FORMS[form]
    save(tmp_path, 1)
    writers = [forked(lambda value=value: forever(save, tmp_path, value)) for value in (1, 2)]
    try:
        end, loads = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            assert read(tmp_path) in ({"1"}, {"2"})
            loads += 1
        assert [os.waitpid(writer, os.WNOHANG) for writer in writers] == [(0, 0), (0, 0)]  # none failed
    finally:
        for writer in writers:
            kill(writer)
    assert loads > 1


def test_what_a_living_writer_prepares_is_kept_by_others(tmp_path):
    with replacing_folder(tmp_path / "target") as built:
        built.mkdir()
        (built / "precious").touch()
        other = forked(lambda: save_folder(tmp_path, 2))
        assert os.waitpid(other, 0)[1] == 0
        assert (built / "precious").exists()
    assert os.listdir(tmp_path / "target") == ["precious"]
    assert os.listdir(tmp_path) == ["target"]


def test_an_old_folder_that_a_killed_writer_moved_away_is_back_when_the_next_save_fails(tmp_path):
    dead = tmp_path / f".target.{uuid4().hex}.partial"
    (dead / "target.old").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "target"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["target"]


def test_a_link_stays_a_link_and_a_mode_stays_a_mode(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_file(link, "new")
    assert link.is_symlink()
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("new", 0o640)


def fill_folder(target: Path) -> None:
    with replacing_folder(target) as built:
        built.mkdir()
        write_file(built / "a", b"x" * 200_000)


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_old_version_of_every_form(small):
    save_gir(small, 1)
    with pytest.raises(StorageError, match=r"cannot save .*: No space left on device: .* are needed, .* are free"):
        save_gir(small, 2)
    assert read_gir(small) == {"1"}
    with pytest.raises(FileError, match="No space left on device"):
        write_file(small / "file", b"x" * 200_000)
    with pytest.raises(FileError, match="No space left on device"):
        write_archive(small / "archive", {"a": torch.zeros(200_000)})
    with pytest.raises(FileError, match="No space left on device"):
        fill_folder(small / "target")
    assert sorted(os.listdir(small)) == NAMES["gir"]


def test_a_read_only_file_system_is_told(small):
    save_gir(small, 1)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(StorageError, match=r"cannot save .*model\.gir: Read-only file system"):
        save_gir(small, 2)
    with pytest.raises(FileError, match="Read-only file system"):
        write_file(small / "file", "x")
    assert read_gir(small) == {"1"}
