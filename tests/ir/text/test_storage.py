"""Saved graphs load again, and a bad or interrupted save is noticed or harmless."""

from __future__ import annotations

import copy
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from graphpress.ir import ParseError, StorageError, difference, load_graph, save_graph, tensors
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph
from graphpress.ir.ops import lookup_op
from graphpress.ir.text.attributes import TextFormError
from graphpress.ir.types import TensorType
from tests.ir.strategies import graphs

QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def graph_of(*tensors: torch.Tensor) -> Graph:
    graph = Graph()
    for index, tensor in enumerate(tensors):
        graph.add_constant(f"w{index}", tensor)
    return graph


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gir"


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@QUICK
@given(graphs())
def test_random_graphs_load_as_they_were_saved(tmp_path_factory: pytest.TempPathFactory, graph: Graph) -> None:
    path = tmp_path_factory.mktemp("saved") / "model.gir"
    save_graph(graph, path)
    loaded = load_graph(path)
    assert difference(graph, loaded) is None
    assert all(constant.has_data for constant in loaded.constants.values())
    assert sorted(os.listdir(path.parent)) == ["model.gir", "model.safetensors"]


@pytest.mark.parametrize("dtype", list(DType))
def test_every_element_type_is_stored(path: Path, dtype: DType) -> None:
    tensor = torch.tensor([0, 1, 1, 0]).to(dtype.torch_dtype)
    graph = Graph()
    graph.add_constant("w", tensor, type=TensorType(dtype, (4,)))
    save_graph(graph, path)
    loaded = load_graph(path)
    assert loaded == graph
    assert loaded.constants["w"].tensor.dtype is tensor.dtype
    assert pickle.loads(pickle.dumps(graph)) == graph


def test_odd_tensors_and_names_are_stored(path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    graph = graph_of(base, base[1:], base.T, base[:, ::2], torch.tensor(2.0), torch.zeros(0, 3))
    conjugate = torch.tensor([1j, 2.0]).conj()
    for name in ("__metadata__", "a/b", "", "new\nline", "\ud800"):
        graph.add_constant(name, torch.nn.Parameter(torch.rand(2)))
    graph.add_constant("conjugate", conjugate)
    save_graph(graph, path)
    loaded = load_graph(path)
    assert loaded == graph
    assert torch.equal(loaded.constants["conjugate"].tensor, conjugate)


def test_tied_and_identical_constants_are_stored_once(path: Path) -> None:
    tensor = torch.rand(1000)
    save_graph(graph_of(tensor), path)
    once = path.with_suffix(".safetensors").stat().st_size
    save_graph(graph_of(tensor, tensor.clone(), tensor), path)
    assert path.with_suffix(".safetensors").stat().st_size < once + 200
    loaded = load_graph(path)
    assert loaded.constants["w0"].tensor is loaded.constants["w2"].tensor


def test_constants_of_nested_graphs_are_stored(path: Path) -> None:
    graph = graph_of(torch.zeros(2))
    graph.insert(lookup_op("hop.cond"), {}, {"arg1": graph_of(torch.ones(2)), "arg2": (graph_of(torch.ones(3)),)}, ())
    save_graph(graph, path)
    loaded = load_graph(path)
    assert loaded == graph
    assert torch.equal(loaded.node("cond").attributes["arg2"][0].constants["w0"].tensor, torch.ones(3))


def test_a_hash_that_went_stale_behind_torchs_back_is_computed_anew(path: Path) -> None:
    tensor = torch.zeros(3)
    graph = graph_of(tensor)
    str(graph)
    tensor.numpy()[:] = 1
    save_graph(graph, path)
    assert torch.equal(load_graph(path).constants["w0"].tensor, torch.ones(3))


# interrupted saves


@pytest.mark.parametrize("completed_renames", [0, 1, 2])
def test_an_interrupted_save_leaves_the_old_graph_or_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, completed_renames: int
) -> None:
    old, new, last = graph_of(torch.zeros(2)), graph_of(torch.ones(2)), graph_of(torch.full((2,), 2.0))
    save_graph(old, path)
    interrupt_after(completed_renames, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        save_graph(new, path)
    monkeypatch.undo()
    assert load_graph(path) == (new if completed_renames == 2 else old)
    assert not list(path.parent.glob("*.tmp"))

    interrupt_after(1, monkeypatch)  # again, on top of what the first one left
    with pytest.raises(KeyboardInterrupt):
        save_graph(last, path)
    monkeypatch.undo()
    assert load_graph(path) == (new if completed_renames == 2 else old)

    save_graph(last, path)
    assert load_graph(path) == last
    assert sorted(os.listdir(path.parent)) == ["model.gir", "model.safetensors"]


def interrupt_after(completed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left, rename = [completed], os.replace

    def replace(*args: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(*args)

    monkeypatch.setattr(os, "replace", replace)


def test_a_save_that_fails_while_writing_leaves_the_old_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = graph_of(torch.zeros(2))
    save_graph(old, path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(tensors, "save_file", fail)
    with pytest.raises(StorageError, match="no space left"):
        save_graph(graph_of(torch.ones(2)), path)
    assert load_graph(path) == old
    assert sorted(os.listdir(path.parent)) == ["model.gir", "model.safetensors"]


# bad files


def test_damage_names_the_tensor(path: Path) -> None:
    save_graph(graph_of(torch.rand(4)), path)
    data = path.with_suffix(".safetensors")
    whole = data.read_bytes()
    flip_a_byte(data)
    with pytest.raises(StorageError, match=r"'w0' in .* is damaged"):
        load_graph(path)
    data.write_bytes(whole[:-3])
    with pytest.raises(StorageError, match=r"truncated.*'w0'"):
        load_graph(path)
    data.unlink()
    with pytest.raises(StorageError, match="is missing, so constant 'w0'"):
        load_graph(path)


def test_files_of_different_saves_are_noticed(path: Path, tmp_path: Path) -> None:
    save_graph(graph_of(torch.zeros(2)), path)
    save_graph(graph_of(torch.ones(2)), tmp_path / "other.gir")
    os.replace(tmp_path / "other.safetensors", path.with_suffix(".safetensors"))
    with pytest.raises(StorageError, match=r"no tensor for constant 'w0'.*different saves"):
        load_graph(path)


def test_text_errors_name_the_file(path: Path) -> None:
    path.write_text("graph @main {\n  return %x\n}\n")
    with pytest.raises(ParseError, match=r"model\.gir: line 2, column 10"):
        load_graph(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="cannot read"):
        load_graph(path)


def test_what_cannot_be_saved_or_found_is_said(path: Path) -> None:
    with pytest.raises(StorageError, match="no saved graph"):
        load_graph(path)
    with pytest.raises(StorageError, match=r"called \*\.gir"):
        save_graph(Graph(), path.with_suffix(".txt"))
    with pytest.raises(StorageError, match="cannot save"):
        save_graph(Graph(), path.parent / "nowhere" / "model.gir")
    with pytest.raises(StorageError, match="meta device"):
        save_graph(graph_of(torch.zeros(2, device="meta")), path)
    graph = Graph()
    graph.add_constant("w", None, type=TensorType(DType.FLOAT32, (2,)))
    with pytest.raises(StorageError, match="'w' has no data"):
        save_graph(graph, path)
    graph = Graph()
    graph.insert(lookup_op("hop.cond"), {}, {"arg0": object()}, ())
    with pytest.raises(TextFormError, match="node cond"):
        save_graph(graph, path)
    assert not path.exists()


@pytest.mark.parametrize("suffix", [".gir", ".safetensors"])
def test_a_folder_in_the_place_of_a_file_is_said_before_anything_is_written(path: Path, suffix: str) -> None:
    path.with_suffix(suffix).mkdir()
    with pytest.raises(StorageError, match=rf"cannot save .*model\.gir: .*model\{suffix} is a folder"):
        save_graph(graph_of(torch.zeros(2)), path)
    assert os.listdir(path.parent) == [f"model{suffix}"]


def test_a_text_without_the_hash_of_a_constant_is_refused(path: Path) -> None:
    save_graph(graph_of(torch.zeros(2)), path)
    text = path.read_text()
    path.write_text(re.sub(r' sha256\("\w+"\)', "", text))
    assert path.read_text() != text
    with pytest.raises(StorageError, match="its text gives constant 'w0' no sha256"):
        load_graph(path)


# copies


def test_pickle_and_deepcopy_do_not_recurse_through_long_graphs() -> None:
    graph = graph_of(torch.rand(3))
    value = graph.add_input("x", TensorType(DType.FLOAT32, (2,))).value
    for _ in range(3000):
        value = graph.insert(lookup_op("aten.relu"), {"self": value}, {}, [value.type]).result
    graph.add_output(value)
    assert pickle.loads(pickle.dumps(graph)) == graph
    assert copy.deepcopy(graph) == graph


def test_a_deep_copy_has_tensors_of_its_own() -> None:
    tensor = torch.zeros(2)
    graph = graph_of(tensor, tensor)
    twin = copy.deepcopy(graph)
    tensor += 1
    assert torch.equal(twin.constants["w0"].tensor, torch.zeros(2))
    assert twin.constants["w0"].tensor is twin.constants["w1"].tensor


@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.new"])
def test_data_in_a_pipe_or_a_device_is_not_read(path: Path, suffix: str) -> None:
    save_graph(graph_of(torch.ones(3)), path)
    data = path.with_suffix(".safetensors")
    data.unlink()
    for make in (os.mkfifo, lambda place: place.symlink_to("/dev/zero"), Path.mkdir):
        place = path.with_suffix(suffix)
        make(place)
        with pytest.raises(StorageError, match=r"is no file|is missing"):
            load_graph(path)
        place.rmdir() if place.is_dir() else place.unlink()
