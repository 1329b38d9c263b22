"""Saved folders from strangers, and folders that a writer replaces while they are read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from graphpress import GraphpressError
from graphpress.ir import folders
from graphpress.ir.folders import FolderError, check_contents, read_whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "saved"
    (made / "data").mkdir(parents=True)
    (made / "data" / "a").write_text("a")
    return made


def test_a_folder_of_files_is_accepted_and_so_are_links_in_it(folder):
    (folder / "b").symlink_to("data/a")
    (folder / "more").symlink_to("data")
    (folder.parent / "link").symlink_to(folder)
    assert check_contents(folder) is None
    assert check_contents(folder.parent / "link") is None


@pytest.mark.parametrize("target", ["../secret", "../saved-too", "/dev/zero", "..", "missing/../../secret"])
def test_a_link_out_of_a_folder_is_refused(folder, target):
    (folder.parent / "secret").write_text("secret")
    (folder.parent / "saved-too").mkdir()
    (folder / "data" / "b").symlink_to(target if target.startswith("/") else f"../{target}")
    with pytest.raises(FolderError, match=r"b links out of .*saved; it is not followed"):
        check_contents(folder)


def test_a_link_to_nothing_and_a_circle_of_links_are_refused(folder):
    (folder / "b").symlink_to("data/missing")
    with pytest.raises(FolderError, match="b is neither a file nor a folder"):
        check_contents(folder)
    (folder / "b").unlink()
    (folder / "b").symlink_to("b")
    with pytest.raises(FolderError):
        check_contents(folder)


def test_a_pipe_is_refused_where_it_is(folder):
    os.mkfifo(folder / "data" / "pipe")
    with pytest.raises(FolderError, match=r"data/pipe is neither a file nor a folder"):
        check_contents(folder)


def test_many_entries_are_refused(folder, monkeypatch):
    monkeypatch.setattr(folders, "_MOST_ENTRIES", 1)
    with pytest.raises(FolderError, match="more than 1 entries"):
        check_contents(folder)


def _replace(folder: Path) -> None:
    shutil.copytree(folder, folder.with_suffix(".new"))
    shutil.rmtree(folder)
    folder.with_suffix(".new").rename(folder)


def test_what_was_read_while_the_folder_was_replaced_is_read_again(folder):
    found = []

    def read() -> int:
        found.append(len(found))
        if len(found) < 3:
            _replace(folder)
        if len(found) == 2:
            raise GraphpressError("of two versions")
        return found[-1]

    assert read_whole(folder, read) == 2


def test_an_error_of_a_folder_that_stays_is_an_error(folder):
    calls = []

    def read() -> None:
        calls.append(1)
        raise GraphpressError("damaged")

    with pytest.raises(GraphpressError, match="damaged"):
        read_whole(folder, read)
    assert len(calls) == 1


def test_a_folder_that_is_replaced_all_the_time_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr(folders, "_ATTEMPTS", 3)
    calls = []

    def read() -> None:
        calls.append(1)
        _replace(folder)
        raise GraphpressError("of two versions")

    with pytest.raises(GraphpressError, match="of two versions"):
        read_whole(folder, read)
    assert len(calls) == 4
