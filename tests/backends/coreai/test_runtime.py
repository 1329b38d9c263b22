import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from graphpress.backends.coreai import AssetError, ExecutionError, ModelInputError, convert, load


class Mixed(nn.Module):
    """One input of each kind the runtime takes."""

    def forward(self, half, flags, count, small, brain):
        return half * 2, ~flags, count + 1, small + 1, brain * 3


INPUTS = {
    "half": torch.randn(2, 3).half(),
    "flags": torch.tensor([True, False]),
    "count": torch.tensor([3, 2**31 - 2], dtype=torch.int32),
    "small": torch.tensor([1, -5], dtype=torch.int8),
    "brain": torch.randn(4).bfloat16(),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "m.aimodel"
    convert(Mixed(), path, INPUTS)
    with load(path) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    path = tmp_path_factory.mktemp("linear") / "m.aimodel"
    convert(nn.Linear(3, 2), path, torch.randn(2, 3), ({0: torch.export.Dim("B", min=1, max=8)},))
    return path


def test_inputs_of_every_dtype_go_by_position_and_by_name(mixed):
    expected = Mixed()(**INPUTS)
    by_position, by_name = mixed(*INPUTS.values()), mixed(**INPUTS)
    for want, one, other in zip(expected, by_position, by_name, strict=True):
        assert one.dtype == want.dtype
        assert torch.equal(one, want)
        assert torch.equal(other, want)


def test_64_bit_integers_are_narrowed_when_they_fit(mixed):
    assert mixed(**{**INPUTS, "count": torch.tensor([3, 4])})[2].tolist() == [4, 5]
    with pytest.raises(ModelInputError, match="'count' holds 3 to 4294967296"):
        mixed(**{**INPUTS, "count": torch.tensor([3, 2**32])})


def test_a_single_output_is_a_tensor_and_strided_inputs_work(linear):
    with load(linear) as loaded:
        x = torch.randn(3, 2)
        assert torch.equal(loaded(x.t()), loaded(x.t().contiguous()))
        assert loaded(torch.randn(7, 3)).shape == (7, 2)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((torch.zeros(1, 4),), {}, r"shape \[1, 4\], but this asset takes \[any, 3\]"),
        ((torch.zeros(3),), {}, r"shape \[3\]"),
        ((torch.zeros(1, 3).half(),), {}, "torch.float16, but this asset takes torch.float32"),
        ((), {"inptu": torch.zeros(1, 3)}, "no input 'inptu'; did you mean 'input'"),
        ((torch.zeros(1, 3),) * 2, {}, "takes 1 inputs"),
        ((torch.zeros(1, 3),), {"input": torch.zeros(1, 3)}, "given twice"),
        ((), {}, "also needs input"),
        (("x",), {}, "must be a torch tensor, got a str"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(linear, args, kwargs, message):
    with load(linear) as loaded, pytest.raises(ModelInputError, match=message):
        loaded(*args, **kwargs)


def test_calls_work_inside_a_running_event_loop_and_from_threads(linear):
    x = torch.randn(1, 3)
    with load(linear) as loaded:
        expected = loaded(x)

        async def inside():
            return loaded(x)

        assert torch.equal(asyncio.run(inside()), expected)
        results = []
        threads = [threading.Thread(target=lambda: results.append(loaded(x))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4
        assert all(torch.equal(result, expected) for result in results)


def test_a_closed_model_says_so(linear):
    loaded = load(linear)
    loaded.close()
    loaded.close()
    assert "closed" in repr(loaded)
    with pytest.raises(ExecutionError, match="is closed"):
        loaded(torch.randn(1, 3))


def test_a_model_that_is_dropped_frees_its_files(linear, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    loaded = load(linear)
    assert list(Path(tmp_path).iterdir())
    del loaded
    gc.collect()
    assert not list(Path(tmp_path).iterdir())


def test_a_forked_process_is_told_to_load_its_own(linear):
    with load(linear) as loaded:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                loaded(torch.zeros(1, 3))
            except ExecutionError as error:
                os.write(writer, str(error).encode())
                loaded.close()  # must neither hang nor take the parent's files
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert b"loaded in another process" in os.read(reader, 4096)
        assert loaded(torch.zeros(1, 3)).shape == (1, 2)


def test_buffers_the_model_changes_are_states_kept_between_calls(tmp_path):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(2))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 2

    convert(Counter(), tmp_path / "m.aimodel", torch.zeros(2))
    with load(tmp_path / "m.aimodel") as loaded:
        (state,) = loaded.states.values()
        state.fill_(1)
        assert loaded(torch.tensor([1.0, 2.0])).tolist() == [4, 6]
        assert loaded(torch.tensor([1.0, 2.0])).tolist() == [6, 10]
        assert state.tolist() == [3, 5]


def test_an_asset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AssetError, match=r"m\.aimodel does not exist"):
        load(tmp_path / "m.aimodel")
