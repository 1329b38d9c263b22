"""Prepared models train in two processes, `DistributedDataParallel` over gloo, as they do in one."""

from __future__ import annotations

import datetime
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from graphpress.quantization import QuantizerConfig
from tests.graphpress.quantization.test_quantizer_compiled import CONFIGS, image, prepared_net

CASES = {
    "default": CONFIGS["default"],
    "learnable": CONFIGS["learnable"],
    "eager": lambda: QuantizerConfig(execution_mode="eager"),
    "eager learnable": lambda: CONFIGS["learnable"]().set_execution_mode("eager"),
}
STEPS = 3


def steps_of_training(quantizer, model, batches):
    """Train with the ranges and statistics of the calibration, so that halves of a batch make the whole."""
    gradients = []
    quantizer.freeze_batch_norm()
    optimizer = torch.optim.SGD(quantizer.prepared_model.parameters(), lr=0.05)
    with quantizer.training_mode():
        quantizer.disable_observer()
        for batch in batches:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            gradients.append({n: p.grad.clone() for n, p in quantizer.prepared_model.named_parameters()})
            optimizer.step()
            quantizer.step()
    return gradients


def state_of(prepared):
    return {name: tensor.clone() for name, tensor in prepared.state_dict().items()}


def worker(rank, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    results = {}
    for name, config in CASES.items():
        quantizer, prepared = prepared_net(config())
        parallel = DistributedDataParallel(prepared)
        halves = [image(seed)[2 * rank : 2 * rank + 2] for seed in range(STEPS)]
        gradients = steps_of_training(quantizer, parallel, halves)
        trained = state_of(prepared)
        quantizer.unfreeze_batch_norm()
        with quantizer.training_mode():
            parallel((1 + 9 * rank) * image(5 + rank))  # each process sees other data
            apart = state_of(prepared)
            parallel(image(9))
        results[name] = {"gradients": gradients, "trained": trained, "apart": apart, "together": state_of(prepared)}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What either process found, by case."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, (port, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_both_processes_get_the_gradients_of_the_whole_batch(case, results):
    one, other = (result[case]["gradients"] for result in results)
    quantizer, prepared = prepared_net(CASES[case]())
    whole = steps_of_training(quantizer, prepared, [image(seed) for seed in range(STEPS)])
    for step in range(STEPS):
        for name, expected in whole[step].items():
            assert torch.equal(one[step][name], other[step][name]), name
            torch.testing.assert_close(one[step][name], expected, rtol=1e-3, atol=1e-5, msg=f"{name}, step {step}")
    trained = results[0][case]["trained"]
    assert int(trained["_training_steps"]) == STEPS
    for name, parameter in prepared.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_ranges_and_statistics_are_those_of_the_first_process_from_the_next_step_on(case, results):
    apart, together = ([result[case][when] for result in results] for when in ("apart", "together"))
    differ = {name for name in apart[0] if not torch.equal(apart[0][name], apart[1][name])}
    assert any("running_mean" in name for name in differ)
    assert any("running_max" in name for name in differ) == ("learnable" not in case), "learned scales observe nothing"
    assert all("running_" in name or "open_" in name for name in differ)
    unlike = [name for name, tensor in together[0].items() if not torch.equal(tensor, together[1][name])]
    assert unlike == []
