"""The fuzzer itself: cases are reproduced, and every way of breaking the property is reported."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphpress import GraphpressError
from tests.fuzzing import guard
from tests.fuzzing.campaign import Report, make_seeds, run_campaign
from tests.fuzzing.formats import FORMATS, Format
from tests.fuzzing.guard import run_case
from tests.fuzzing.mutation import WAYS, mutate_bytes, mutate_files, mutate_zip


@given(st.integers(0, 2**32), st.binary(max_size=200), st.sampled_from(sorted({*WAYS, "bin"})))
def test_a_mutation_is_the_same_for_the_same_seed_whatever_the_file_holds(seed, data, suffix):
    files = {f"a.{suffix}": data, "b.json": b'{"a": [1, {"b": "c"}]}'}
    first, second = (mutate_files(Random(seed), files) for _ in range(2))
    assert first == second
    assert all(isinstance(content, bytes) for content in first.values())


@pytest.mark.parametrize(
    ("suffix", "data"),
    [("gir", b"graph @main { input %x: f32[2] }"), ("json", b'{"a": [1, {"b": 2}]}'), ("yaml", b"a: {b: [1, 2]}\n")],
)
def test_most_mutations_change_a_file_and_differ(suffix, data):
    made = [mutate_files(Random(seed), {f"a.{suffix}": data})[f"a.{suffix}"] for seed in range(100)]
    assert sum(each != data for each in made) > 80
    assert len(set(made)) > 50


def test_an_archive_that_does_not_inflate_is_mutated_as_bytes():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(range(256)) * 9)
    whole = bytearray(made.getvalue())
    whole[31:40] = b"\xff" * 9
    with pytest.raises(zlib.error), zipfile.ZipFile(io.BytesIO(whole)) as archive:
        archive.read("a")
    assert mutate_zip(Random(0), bytes(whole)) == mutate_bytes(Random(0), bytes(whole))


def test_every_byte_may_change():
    made = {mutate_bytes(Random(seed), bytes(8)) for seed in range(300)}
    assert {next((at for at, byte in enumerate(each) if byte), None) for each in made} >= set(range(8))


def write_outside(folder: Path) -> None:
    (folder.parent.parent / "outside").touch()


def write_inside(folder: Path) -> None:
    (folder / "m.txt").write_text("changed")


def take_memory(folder: Path) -> None:
    bytearray(2**28)


def compute(folder: Path) -> None:
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


def start_a_process(folder: Path) -> None:
    subprocess.run(["true"], check=False)


def refuse_at_length(folder: Path) -> None:
    raise GraphpressError("no" * 5000)


@pytest.mark.parametrize(
    ("reader", "failure"),
    [
        (lambda folder: {}["a"], "KeyError in no function of ours: 'a'"),
        (write_outside, "touched "),
        (write_inside, "changed the files"),
        (take_memory, "took 25"),
        (compute, "took 0."),
        (start_a_process, "touched a process"),
        (refuse_at_length, "refused by an error of 10"),
    ],
)
def test_a_reader_that_breaks_the_property_is_reported(tmp_path, monkeypatch, reader, failure):
    monkeypatch.setattr(guard, "SECONDS", 0.2)
    folder = tmp_path / "scratch" / "case"
    folder.mkdir(parents=True)
    (folder / "m.txt").write_text("a")
    assert run_case(reader, folder, 1).failure.startswith(failure)


def test_what_is_read_or_refused_is_no_failure(tmp_path):
    def refuse(folder: Path) -> None:
        raise GraphpressError("no")

    assert run_case(lambda folder: None, tmp_path, 0).failure == ""
    assert (run_case(refuse, tmp_path, 0).failure, run_case(refuse, tmp_path, 0).refusal) == ("", "GraphpressError: no")


def test_a_module_that_a_reader_imports_first_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "imported_by_a_reader.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "scratch" / "case").mkdir(parents=True)

    outcome = run_case(lambda folder: importlib.import_module("imported_by_a_reader"), tmp_path / "scratch" / "case", 0)

    assert outcome.failure == ""
    assert not sys.dont_write_bytecode


def campaign(tmp_path: Path, check: Callable[[Path], None], cases: int) -> Report:
    def make(folder: Path) -> None:
        (folder / "one").mkdir()
        (folder / "one" / "m.txt").write_text("a b c")

    made = Format("toy", make, check, cases)
    make_seeds(made, tmp_path / "seeds")
    return run_campaign(made, tmp_path / "seeds", 0, cases, time.monotonic() + 60)


def test_a_process_that_is_ended_costs_one_case(tmp_path):
    whole: list[bytes] = []

    def check(folder: Path) -> None:
        content = (folder / "m.txt").read_bytes()
        whole.append(content)
        if content != whole[0] and b"c" not in content:
            os.abort()

    report = campaign(tmp_path, check, 20)
    assert report.finds
    assert {find.failure for find in report.finds} == {"abort: the process was ended by SIGABRT"}
    assert report.read + len(report.finds) == 20


def test_a_valid_file_that_fails_ends_the_campaign(tmp_path, capfd):
    def refuse(folder: Path) -> None:
        raise GraphpressError("no")

    with pytest.raises(RuntimeError, match="a valid file of toy"):
        campaign(tmp_path, refuse, 5)
    assert "one is not valid: GraphpressError: no" in capfd.readouterr().err


def _slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [_slow("gir"), "pipeline", "yaml", _slow("sensitivities")])
def test_a_few_cases_of_each_format_of_text(tmp_path, name):
    make_seeds(FORMATS[name], tmp_path / "seeds")
    report = run_campaign(FORMATS[name], tmp_path / "seeds", 0, 25, time.monotonic() + 60)
    assert report.finds == []
    assert report.refused > 0
    assert report.read > 0
