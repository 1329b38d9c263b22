"""Clustering through executors: the result is the same whoever does it, and a lost worker costs a retry."""

import multiprocessing
import os
import pickle
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationError,
    PalettizationSpec,
    PalettizationWarning,
)
from graphpress.palettization.jobs import MOST_TRIES, Job, Outcome, WorkerError, clustered, run_elsewhere
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.quantization import QuantizationSpec


class Mixed(nn.Module):
    """A weight of each dtype, and a tied one."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(64, 16)
        self.conv = nn.Conv1d(16, 16, 3, dtype=torch.float16)
        self.up = nn.ConvTranspose1d(16, 16, 2, dtype=torch.bfloat16)
        self.head = nn.Linear(16, 64)
        self.head.weight = self.embed.weight


def mixed():
    torch.manual_seed(0)
    return Mixed().eval()


def config():
    """Scalars, vectors, groups and quantized tables."""
    specs = {
        "embed": PalettizationSpec(n_bits=4, cluster_dim=2),
        "conv": PalettizationSpec(n_bits=3, granularity=PerGroupedChannelGranularity(group_size=8)),
        "up": PalettizationSpec(n_bits=2, cluster_dim=4, lut_qspec=QuantizationSpec(), enable_per_channel_scale=True),
    }
    return KMeansPalettizerConfig(
        module_name_configs={
            name: ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec}) for name, spec in specs.items()
        }
    )


def prepared(**options):
    return KMeansPalettizer(mixed(), config()).prepare(seed=3, **options)


def assert_bit_equal(model, expected):
    state, wanted = model.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in state.items():
        assert tensor.dtype == wanted[name].dtype
        assert torch.equal(tensor, wanted[name]), name
    assert model.embed.weight_indices is model.head.weight_indices


@pytest.fixture(scope="module")
def processes():
    """Processes that start quickly: copies of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["graphpress.palettization", "graphpress.passes.clustering.scalar_kernels"])
    return context


@pytest.fixture(scope="module")
def cluster(processes):
    """Two worker processes of Dask on this machine."""
    dask = pytest.importorskip("dask")
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": processes.get_start_method()}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0
        ) as workers,
        distributed.Client(workers) as client,
    ):
        yield client


def kill_once(mark, job, tries):
    """Run the job; whoever comes first to the one in question takes its process along."""
    if job.name == "conv.weight" and not Path(mark).exists():
        Path(mark).touch()
        os._exit(1)
    return run_elsewhere(job, tries)


class KillingPool(ProcessPoolExecutor):
    """A pool that loses a process to one of the jobs."""

    mark = ""

    def submit(self, function, /, job, tries):
        assert function is run_elsewhere
        return super().submit(kill_once, self.mark, job, tries)


class KillingCluster(Executor):
    """The same for an executor of any other kind."""

    def __init__(self, executor, mark):
        self._executor, self._mark = executor, mark

    def submit(self, function, /, job, tries):
        assert function is run_elsewhere
        return self._executor.submit(kill_once, self._mark, job, tries)


# Whoever does it


def test_threads_give_the_same_bits_as_one_after_the_other():
    expected = prepared()
    assert_bit_equal(prepared(num_workers=3), expected)
    with ThreadPoolExecutor(2) as threads:
        assert_bit_equal(prepared(executor=threads), expected)


def test_processes_give_the_same_bits(processes):
    with ProcessPoolExecutor(2, mp_context=processes) as pool:
        assert_bit_equal(prepared(executor=pool), prepared())


def test_dask_gives_the_same_bits(cluster):
    assert_bit_equal(prepared(executor=cluster.get_executor()), prepared())


# Whatever happens to them


def test_a_killed_process_costs_a_retry_in_a_new_pool(processes, tmp_path):
    with KillingPool(2, mp_context=processes) as pool:
        pool.mark = str(tmp_path / "killed")
        with pytest.warns(PalettizationWarning, match=r"worker was lost \(BrokenProcessPool.*conv\.weight"):
            model = prepared(executor=pool)
    assert (tmp_path / "killed").exists()
    assert_bit_equal(model, prepared())


def test_a_killed_worker_of_a_cluster_costs_a_retry(cluster, tmp_path):
    model = prepared(executor=KillingCluster(cluster.get_executor(), str(tmp_path / "killed")))
    assert (tmp_path / "killed").exists()
    assert_bit_equal(model, prepared())


class Scripted(Executor):
    """Does each job at once, after the failures that it was told."""

    def __init__(self, *failures):
        self.failures, self.tried = list(failures), []

    def submit(self, function, /, job, tries):
        self.tried.append((job.name, tries))
        future = Future()
        if self.failures and self.failures[0][0] == job.name:
            future.set_exception(self.failures.pop(0)[1])
        else:
            future.set_result(function(job, tries))
        return future


def test_a_job_that_fails_again_and_again_is_named():
    always = Scripted(*[("conv.weight", OSError("gone"))] * 5)
    with (
        pytest.warns(PalettizationWarning, match=r"OSError: gone.*conv\.weight"),
        pytest.raises(WorkerError, match=r"3 times at one of conv\.weight \(OSError: gone\)") as caught,
    ):
        prepared(executor=always)
    assert isinstance(caught.value.__cause__, OSError)
    assert [tries for name, tries in always.tried if name == "conv.weight"] == list(range(MOST_TRIES))


def test_where_an_executor_of_another_kind_breaks_threads_go_on():
    broken = Scripted(("conv.weight", BrokenExecutor("all gone")))
    with pytest.warns(PalettizationWarning, match="all gone"):
        model = prepared(executor=broken)
    assert_bit_equal(model, prepared())


def test_a_pool_that_is_broken_from_the_start_is_replaced():
    class Refusing(Executor):
        def submit(self, function, /, *arguments):
            raise BrokenExecutor("never worked")

    with pytest.warns(PalettizationWarning, match="never worked"):
        assert_bit_equal(prepared(executor=Refusing()), prepared())


def test_a_weight_that_cannot_be_palettized_is_an_error_at_once_wherever_it_is_found():
    model = mixed()
    with torch.no_grad():
        model.up.weight[0, 0, 0] = torch.nan
    executor = Scripted()
    with pytest.raises(PalettizationError, match=r"up\.weight: 1 of 512"):
        KMeansPalettizer(model, config()).prepare(executor=executor)
    assert [tries for _, tries in executor.tried] == [0] * len(executor.tried)


# What is on its way


def job(name="weight", tensor=None):
    return Job(torch.randn(16, 16) if tensor is None else tensor, PalettizationSpec(), "linear", name, 0, None)


def test_weights_are_handed_out_two_for_each_worker_at_a_time():
    handed, taken, most = 0, 0, 0

    def jobs():
        nonlocal handed, most
        for place in range(20):
            handed += 1
            most = max(most, handed - taken)
            yield job(f"{place}")

    with ThreadPoolExecutor(2) as threads:
        for _ in clustered(jobs(), 1, threads):
            taken += 1
    assert taken == 20
    assert most == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_jobs_and_results_travel_as_plain_bytes(dtype):
    sent = job(tensor=torch.randn(16, 8).to(dtype).t())
    wire = pickle.dumps(sent)
    assert b"rebuild" not in wire  # torch's own pickles, or handles to shared memory
    received = pickle.loads(wire)
    assert received.tensor.dtype is dtype
    assert torch.equal(received.tensor, sent.tensor)
    back = pickle.loads(pickle.dumps(run_elsewhere(received, 0)))
    assert torch.equal(back.found.dense(), sent.run().dense())


def test_results_that_are_reasons_travel_too():
    small = job("tiny", torch.randn(3, 2))
    back = pickle.loads(pickle.dumps(run_elsewhere(small, 0)))
    assert isinstance(back, Outcome)
    assert str(back.found) == str(small.run())
    assert "tiny of shape (3, 2)" in str(back.found)


# What elements count travels along


def test_importances_of_any_shape_give_the_same_bits_in_processes(processes, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(16, 16, 3), nn.Linear(20, 32)).eval()
    each = {"weight": PalettizationSpec(n_bits=3, cluster_dim=2, activation_aware=True)}
    wanted = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec=each))
    data = torch.randn(4, 16, 22) * torch.logspace(-1, 1, 16)[:, None]
    states = []
    for workers in (1, 3):
        palettizer = KMeansPalettizer(model, wanted)
        ready = palettizer.prepare((data,), num_workers=workers)
        with palettizer.calibration_mode(sensitivity_path=tmp_path / "moments"):
            ready(data)
        states.append(ready.state_dict())
    with ProcessPoolExecutor(2, mp_context=processes) as pool:
        elsewhere = KMeansPalettizer(model, wanted).prepare((data,), tmp_path / "moments", executor=pool)
    states.append(elsewhere.state_dict())
    plain = KMeansPalettizer(model, wanted).prepare((data,)).state_dict()
    assert not torch.equal(plain["0.weight_lut"], states[0]["0.weight_lut"])
    for name, tensor in states[0].items():
        assert all(torch.equal(other[name], tensor) for other in states[1:]), name
