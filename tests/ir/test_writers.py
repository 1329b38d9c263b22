"""Several writers, killed writers and full disks: a reader sees one whole version, and the next save cleans up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from graphpress.ir import StorageError
from graphpress.ir.files import FileError, replacing_folder, write_file
from graphpress.ir.tensors import write_archive
from tests.writers import (
    NEEDS_FORKS,
    Form,
    check_file_size_limit,
    check_kills,
    check_two_writers,
    forked,
    read_folder,
    read_gir,
    read_text,
    save_folder,
    save_gir,
    save_text,
    small_file_system,
)

pytestmark = NEEDS_FORKS
FORMS = {
    "file": Form(save_text, read_text, ["file"]),
    "gir": Form(save_gir, read_gir, ["model.gir", "model.safetensors"]),
    "folder": Form(save_folder, read_folder, ["target"]),
}


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_writers_killed_at_any_time_leave_a_whole_version_and_the_next_save_cleans_up(tmp_path, form, kills):
    check_kills(FORMS[form], tmp_path, kills, 0.02)


@pytest.mark.parametrize("seconds", [0.5, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_a_reader_sees_one_whole_version_while_two_write(tmp_path, form, seconds):
    check_two_writers(FORMS[form], tmp_path, seconds)


@pytest.mark.parametrize("form", ["file", "gir"])
def test_a_limit_on_the_size_of_files_leaves_the_old_version(tmp_path, form):
    check_file_size_limit(FORMS[form], tmp_path)


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
    with small_file_system(tmp_path / "small", "256k") as folder:
        yield folder


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
    assert sorted(os.listdir(small)) == FORMS["gir"].names


def test_a_read_only_file_system_is_told(small):
    save_gir(small, 1)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(StorageError, match=r"cannot save .*model\.gir: Read-only file system"):
        save_gir(small, 2)
    with pytest.raises(FileError, match="Read-only file system"):
        write_file(small / "file", "x")
    assert read_gir(small) == {"1"}
