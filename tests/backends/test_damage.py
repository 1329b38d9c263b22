"""Artifacts that were damaged in any file, at any place: read as they were, or refused by an error that names them."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphpress import ExportBackend
from graphpress.backends import coreai, coreml
from graphpress.backends.errors import AssetError
from graphpress.ir.diff import diff_graphs
from graphpress.ir.graph import Graph
from graphpress.tools.passctl.main import cli
from tests.backends.features import IMAGE, compressed, save_everywhere
from tests.damage import Damage, damages

coremltools = pytest.importorskip("coremltools")
pytest.importorskip("coreai_torch")

KINDS = ("aimodel", "mlpackage")
BACKENDS = {"aimodel": coreai, "mlpackage": coreml}
READERS: dict[str, Callable[[Path], Graph]] = {"aimodel": coreai.from_asset, "mlpackage": coreml.from_package}
PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("whole")
    model = compressed("int8 tables with a scale per channel", "int8", ExportBackend.CoreAI)
    save_everywhere(model, made)
    np.savez(made / "x.npz", input=IMAGE.numpy())
    return made


@pytest.fixture(scope="module")
def unsigned(folder) -> Path:
    """The package as coremltools writes it, without digests."""
    path = folder / "unsigned.mlpackage"
    shutil.copytree(folder / "m.mlpackage", path)
    manifest = json.loads((path / "Manifest.json").read_text())
    for entry in manifest["itemInfoEntries"].values():
        entry["description"] = entry["description"].partition(", sha256")[0]
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path


def copied(whole: Path, damage: Damage) -> Path:
    """A damaged copy of an artifact."""
    copy = whole.parent / "damaged" / whole.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    damage.apply(copy)
    return copy


def read_or_refused(call: Callable[[Path], Any], path: Path) -> Any:
    """What `call` gives; None when it refuses the artifact and names it."""
    try:
        return call(path)
    except AssetError as error:
        refusal = str(error)
    assert str(path) in refusal
    return None


def described(info: Any) -> list[Any]:
    """What is known of an artifact without its program being understood; where it is and its size left out."""
    names = ("functions", "inputs", "outputs", "target", "constants", "operations")
    return [getattr(info, name, None) for name in names]


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_artifact_is_read_as_it_was_or_refused(folder, kind, data):
    whole = folder / f"m.{kind}"
    path, before = copied(whole, data.draw(damages(whole))), peak_bytes()
    graph = read_or_refused(READERS[kind], path)
    assert graph is None or diff_graphs(graph, READERS[kind](whole)).is_empty
    info = read_or_refused(BACKENDS[kind].read, path)
    assert info is None or described(info) == described(BACKENDS[kind].read(whole))
    assert peak_bytes() - before < 2**28


@settings(max_examples=80)
@given(data=st.data())
def test_a_damaged_package_without_digests_is_read_or_refused(unsigned, data):
    path, before = copied(unsigned, data.draw(damages(unsigned))), peak_bytes()
    read_or_refused(coreml.from_package, path)
    read_or_refused(coreml.read, path)
    assert peak_bytes() - before < 2**28


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_commands_print_and_verify_what_was_written_or_end_with_2(folder, kind, data):
    whole = folder / f"m.{kind}"
    path = copied(whole, data.draw(damages(whole)))
    against = [str(folder / "m.pt2"), "--inputs", str(folder / "x.npz")]
    for command in (["dump", str(path)], ["verify-artifact", str(path), "--against", *against]):
        done = CliRunner().invoke(cli, command)
        assert done.exit_code in (0, 2), done.output
        if done.exit_code == 2:
            assert path.name in done.stderr
            assert done.stdout == ""
            assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(
    ("file", "at"), [(PROGRAM, 5000), (WEIGHTS, 200), (WEIGHTS, -1)], ids=["program", "weights", "the last weight"]
)
def test_a_bit_of_a_package_is_missed(folder, file, at):
    whole = (folder / "m.mlpackage" / file).read_bytes()
    spoiled = bytearray(whole)
    spoiled[at] ^= 1
    path = copied(folder / "m.mlpackage", Damage("a bit flipped", Path(file), bytes(spoiled)))
    item = "weights" if file == WEIGHTS else "model.mlmodel"
    for reader in (coreml.read, coreml.from_package):
        with pytest.raises(AssetError, match=rf"is damaged: Data/com.apple.CoreML/{item} does not match its digest"):
            reader(path)


def test_coremltools_may_save_a_package_again_with_other_words_about_it(folder, tmp_path):
    model = coremltools.models.MLModel(str(folder / "m.mlpackage"), skip_model_load=True)
    model.author, model.license, model.short_description = "A. Author", "MIT", "a network"
    model.input_description["input"] = "an image"
    model.save(str(tmp_path / "m.mlpackage"))
    assert described(coreml.read(tmp_path / "m.mlpackage")) == described(coreml.read(folder / "m.mlpackage"))


def test_coremltools_may_write_another_program_with_the_weights(folder, tmp_path):
    model = coremltools.models.MLModel(str(folder / "m.mlpackage"), skip_model_load=True)
    spec = model.get_spec()
    coremltools.utils.rename_feature(spec, "input", "picture")
    coremltools.utils.save_spec(spec, str(tmp_path / "m.mlpackage"), weights_dir=model.weights_dir)
    assert coreml.read(tmp_path / "m.mlpackage").inputs == ("picture",)


def test_a_manifest_cannot_send_readers_out_of_the_package(folder):
    manifest = json.loads((folder / "m.mlpackage" / "Manifest.json").read_text())
    for entry in manifest["itemInfoEntries"].values():
        entry["path"] = "../../../" + entry["path"]
    path = copied(folder / "m.mlpackage", Damage("", Path("Manifest.json"), json.dumps(manifest).encode()))
    with pytest.raises(AssetError, match=r"m\.mlpackage"):
        coreml.read(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["a link out", "a pipe"])
def test_links_out_of_an_artifact_and_pipes_in_it_are_not_read(folder, tmp_path, kind, what):
    path = tmp_path / f"m.{kind}"
    shutil.copytree(folder / f"m.{kind}", path)
    (file,) = path.rglob("main.mlirb" if kind == "aimodel" else "weight.bin")
    file.rename(tmp_path / "elsewhere")
    if what == "a pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "elsewhere")
    for reader in (BACKENDS[kind].read, READERS[kind]):
        with pytest.raises(AssetError, match=r"links out of|neither a file nor a folder"):
            reader(path)


def test_reading_a_package_writes_nothing(folder):
    manifest = json.loads((folder / "m.mlpackage" / "Manifest.json").read_text())
    written = json.dumps(manifest).encode()  # in other bytes than those of coremltools
    path = copied(folder / "m.mlpackage", Damage("", Path("Manifest.json"), written))
    coreml.read(path)
    coreml.from_package(path)
    assert (path / "Manifest.json").read_bytes() == written
