"""Tensors in memory-mapped files: the same data, files of their own, and errors that say where."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.files import FileError
from graphpress.ir.graph import Graph
from graphpress.modules import mapping
from graphpress.modules.mapping import Mapped, MappingError
from graphpress.palettization import KMeansPalettizer
from graphpress.pruning import MagnitudePruner


def is_mapped(tensor: torch.Tensor, path) -> bool:
    """Whether the process has the file mapped where the tensor's data is."""
    address = tensor.data_ptr()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            first, last = (int(bound, 16) for bound in line.split()[0].split("-"))
            if first <= address < last:
                return line.rstrip().endswith(str(path))
    return False


@pytest.mark.parametrize("dtype", list(DType))
def test_tensors_of_every_element_type_are_mapped(tmp_path, dtype):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype.torch_dtype)
    mapped = Mapped(tmp_path)("w", tensor)
    assert mapped.dtype is tensor.dtype
    assert torch.equal(mapped.float(), tensor.float())
    assert (tmp_path / "w.bin").stat().st_size == 6 * tensor.element_size()
    assert is_mapped(mapped, tmp_path / "w.bin")
    assert not is_mapped(tensor, tmp_path / "w.bin")


def test_odd_tensors_and_names_are_mapped(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    mapped = Mapped(tmp_path / "new" / "folder")
    for name, tensor in {
        "a/b": base.T,
        "..": base[:, ::2],
        "a b": torch.tensor(2.0),
        "": torch.tensor([1j]).conj(),
        "é": torch.zeros(0),
    }.items():
        assert torch.equal(mapped(name, tensor), tensor)
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 4  # one has no elements


def test_one_tensor_under_two_names_is_one_file_and_is_not_kept_in_memory(tmp_path):
    mapped, tensor = Mapped(tmp_path), torch.ones(3)
    first = mapped("a", tensor)
    assert mapped("b", tensor) is first
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    memory = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert memory() is None
    assert torch.equal(mapped("c", torch.zeros(3)), torch.zeros(3))


def test_constants_of_a_graph_are_mapped(tmp_path):
    graph = Graph()
    graph.add_constant("w", torch.arange(3.0))
    Mapped(None).map_constants(graph)
    assert not list(tmp_path.iterdir())
    Mapped(tmp_path).map_constants(graph)
    assert torch.equal(graph.constants["w"].tensor, torch.arange(3.0))
    assert is_mapped(graph.constants["w"].tensor, tmp_path / "w.bin")


def test_a_model_keeps_its_files_when_another_is_finalized_into_the_same_folder(tmp_path):
    torch.manual_seed(0)
    finalized = []
    for compressor in (KMeansPalettizer, MagnitudePruner):
        made = compressor(torch.nn.Sequential(torch.nn.Linear(64, 64)).eval())
        made.prepare((torch.ones(1, 64),))
        finalized.append((made.finalize(mmap_dir=tmp_path), made.finalize()))
        made = compressor(torch.nn.Sequential(torch.nn.Linear(64, 64)).eval())
        made.prepare((torch.ones(1, 64),))
        made.finalize(mmap_dir=tmp_path)
    for mapped, in_memory in finalized:
        for (name, tensor), expected in zip(mapped.state_dict().items(), in_memory.state_dict().values(), strict=True):
            assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("compressor", [KMeansPalettizer, MagnitudePruner])
def test_a_folder_that_cannot_be_written_is_told_by_every_compressor(tmp_path, monkeypatch, compressor):
    (tmp_path / "file").write_text("precious")
    made = compressor(torch.nn.Sequential(torch.nn.Linear(64, 64)).eval())
    made.prepare((torch.ones(1, 64),))
    with pytest.raises(MappingError, match=r"cannot write packed weights to .*below: Not a directory"):
        made.finalize(mmap_dir=tmp_path / "file" / "below")

    def full(tensor, path):
        raise FileError(path, "No space left on device")

    monkeypatch.setattr(mapping, "mapped_tensor", full)
    with pytest.raises(MappingError, match=r"cannot write packed weights to .*\.bin: No space left on device"):
        made.finalize(mmap_dir=tmp_path / "weights")
