"""What is written is whole, or what was there before stays, and an error says what could not be written, and why."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from graphpress import GraphpressError
from graphpress.ir import files
from graphpress.ir.files import (
    FileError,
    check_writable,
    make_folder,
    replacing_folder,
    write_atomically,
    write_file,
    write_scratch,
)
from graphpress.ir.tensors import write_archive


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("content", ["text, ünïcode", b"\x00\xff", memoryview(b"view")])
def test_a_file_holds_what_was_written_and_nothing_lies_beside_it(tmp_path, content):
    path = tmp_path / "file"
    path.write_text("something longer than what replaces it, by far")
    write_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"cannot write .*file: No space left on device") as caught:
        write_file(path, "new")
    assert isinstance(caught.value, GraphpressError)
    assert (caught.value.path, caught.value.reason) == (path, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half(beside: Path) -> None:
        beside.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing/file", "No such file or directory"), ("taken/file", "Not a directory"), ("folder", "Is a directory")],
)
def test_a_place_that_takes_no_file_is_told(tmp_path, name, reason):
    (tmp_path / "taken").write_text("precious")
    (tmp_path / "folder").mkdir()
    for write in (lambda path: write_file(path, "new"), lambda path: write_archive(path, {"a": torch.ones(2)})):
        with pytest.raises(FileError, match=reason):
            write(tmp_path / name)
    with pytest.raises(FileError, match=r"there is no folder|it is a folder"):
        check_writable(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "taken"]


def test_a_closed_folder_is_told(tmp_path, monkeypatch):
    check_writable(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(FileError, match=r"cannot write .*file: the folder .* is not writable"):
        check_writable(tmp_path / "file")


def test_a_scratch_file_is_a_new_file_and_the_disk_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    path, old = tmp_path / "file", tmp_path / "old"
    path.write_bytes(b"old")
    os.link(path, old)
    write_scratch(path, memoryview(b"new"))
    assert path.read_bytes() == b"new"
    assert old.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [path, old]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_scratch_file_that_cannot_be_put_in_place_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch, failure):
    def fail(*_: object) -> None:
        raise failure

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FileError if isinstance(failure, OSError) else KeyboardInterrupt):
        write_scratch(path, memoryview(b"new"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileError, match="Not a directory"):
        write_scratch(path / "below", memoryview(b""))


def test_archives_are_as_open_to_others_as_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_archive(tmp_path / "archive", {"a": torch.ones(2)})
    assert (tmp_path / "archive").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(FileError("a/b", "it is full")))
    assert (str(error), error.path, error.reason) == ("cannot write a/b: it is full", Path("a/b"), "it is full")


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    target = tmp_path / "new" / "deep" / "folder"
    for content in ("first", "second"):
        with replacing_folder(target) as built:
            built.mkdir()
            (built / content).touch()
        assert [path.name for path in target.iterdir()] == [content]
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_is_not_finished_leaves_no_trace(tmp_path):
    target = tmp_path / "new" / "deep" / "folder"

    def stopped() -> None:
        with replacing_folder(target) as built:
            built.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("swaps", [True, False], ids=["swapped", "renamed"])
def test_a_folder_that_cannot_be_put_in_place_is_told(tmp_path, monkeypatch, swaps):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    monkeypatch.setattr(files, "_exchange", full if swaps else lambda first, second: False)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(FileError, match=r"cannot write .*folder: No space left"), replacing_folder(target) as built:
        built.mkdir()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileError, match="Not a directory"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(FileError, match=r"Not a directory|File exists"), replacing_folder(tmp_path / "file" / "below"):
        pytest.fail("nothing to build there")
