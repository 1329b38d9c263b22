"""The life cycle of the pruner."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphpress import ExportBackend
from graphpress.compressor import LifeCycleError, UnusedScheduleWarning
from graphpress.passes.config import UnmatchedConfigError
from graphpress.pruning import (
    ChannelStructured,
    ConstantSparsitySchedule,
    MagnitudePruner,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    PolynomialDecaySchedule,
    PruningError,
    PruningSpec,
)

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 4))


def config(schedule=None, **spec):
    each = ModuleMagnitudePrunerConfig(op_state_spec={"weight": PruningSpec(**spec)}, sparsity_schedule=schedule)
    return MagnitudePrunerConfig(global_config=each)


def by_magnitude(weight, sparsity):
    """The weight with its smallest elements zero, by sorting."""
    zeros = round(sparsity * weight.numel())
    order = weight.detach().abs().flatten().argsort(stable=True)
    pruned = weight.detach().clone().flatten()
    pruned[order[:zeros]] = 0
    return pruned.reshape(weight.shape)


def zeros_in(weight):
    return int((weight == 0).sum())


def train(pruner, steps, *, seed=1, optimizer=None):
    """Sparsities of the first layer at the steps that were taken."""
    prepared, seen = pruner.prepared_model, []
    optimizer = optimizer or torch.optim.SGD(prepared.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(seed)
    with pruner.training_mode() as training:
        for _ in range(steps):
            seen.append(zeros_in(prepared[0].weight) / prepared[0].weight.numel())
            optimizer.zero_grad()
            F.mse_loss(prepared(torch.randn(4, 8, generator=generator)), torch.ones(4, 4)).backward()
            optimizer.step()
            training.step()
    return seen


def test_without_a_config_half_of_the_elements_of_each_weight_are_zeros():
    model = network()
    prepared = MagnitudePruner(model).prepare((X,))
    for at in (0, 3):
        assert torch.equal(prepared[at].weight, by_magnitude(model[at].weight, 0.5))
    assert torch.equal(prepared[2].weight, model[2].weight)


@pytest.mark.parametrize("backend", list(ExportBackend))
@pytest.mark.parametrize("scheme", [None, ChannelStructured(axis=0), ChannelStructured(axis=-1)])
def test_what_is_finalized_computes_what_was_prepared(backend, scheme):
    spec = {} if scheme is None else {"pruning_scheme": scheme}
    pruner = MagnitudePruner(network().double().float().eval(), config(target_sparsity=0.75, **spec))
    prepared = pruner.prepare((X,))
    assert torch.equal(pruner.finalize(backend=backend)(X), prepared(X))


def test_the_model_of_the_user_stays_as_it_is_and_may_be_prepared_again():
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    first, second = MagnitudePruner(model).prepare((X,)), MagnitudePruner(model).prepare((X,))
    assert torch.equal(first.eval()(X), second.eval()(X))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()


def test_the_prepared_model_goes_on_after_finalize():
    pruner = MagnitudePruner(network())
    prepared = pruner.prepare((X,))
    coreai, coreml = pruner.finalize(), pruner.finalize(backend=ExportBackend.CoreML)
    assert "0.weight" not in dict(coreai.named_parameters())
    assert int(coreml[0].get_buffer("_COREML_/weight/compression_type")) == 1
    assert int(coreml.get_buffer("_COREML_/metadata_version")) == 1
    train(pruner, 2)
    assert not torch.equal(pruner.finalize()(X), coreai(X))
    assert torch.equal(pruner.finalize()(X), prepared(X))


def test_zeros_get_no_gradient_and_stay_zeros():
    pruner = MagnitudePruner(network())
    prepared = pruner.prepare((X,))
    mask = prepared[0].weight_mask.clone()
    optimizer = torch.optim.AdamW(prepared.parameters(), lr=0.1, weight_decay=0.1)
    train(pruner, 5, optimizer=optimizer)
    assert torch.equal(prepared[0].weight_mask, mask)
    assert zeros_in(prepared[0].weight) == 64
    prepared(X).sum().backward()
    assert zeros_in(prepared[0]._parameters["weight"].grad[~mask]) == 64


def test_sparsity_follows_the_polynomial_and_reaches_its_target():
    schedule = PolynomialDecaySchedule(begin_step=1, total_iters=4, initial_sparsity=0.25)
    pruner = MagnitudePruner(network(), config(schedule, target_sparsity=0.75))
    pruner.prepare((X,))
    seen = train(pruner, 7)
    curve = [0.75 - 0.5 * (1 - t / 3) ** 3 for t in range(4)]
    expected = [0.25, *(round(s * 128) / 128 for s in curve), 0.75, 0.75]
    assert seen == expected


def test_a_constant_schedule_waits_for_its_step():
    pruner = MagnitudePruner(network(), config(ConstantSparsitySchedule(begin_step=2), target_sparsity=0.5))
    pruner.prepare((X,))
    assert train(pruner, 4) == [0, 0, 0.5, 0.5]


def test_a_mask_that_is_due_goes_by_the_magnitudes_of_that_moment():
    pruner = MagnitudePruner(network(), config(ConstantSparsitySchedule(begin_step=2), target_sparsity=0.5))
    prepared = pruner.prepare((X,))
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1.0)
    with pruner.training_mode() as training:
        for _ in range(2):
            optimizer.zero_grad()
            prepared(X).square().mean().backward()
            optimizer.step()
            training.step()
        assert torch.equal(prepared[0].weight, by_magnitude(prepared[0]._parameters["weight"], 0.5))
        assert training.sparsities == {"0.weight": 0.5, "3.weight": 0.5}


def test_leaving_training_early_or_by_an_exception_prunes_to_the_target():
    pruner = MagnitudePruner(network(), config(PolynomialDecaySchedule(total_iters=100), target_sparsity=0.75))
    prepared = pruner.prepare((X,))

    def train_a_little():
        with pruner.training_mode() as training:
            training.step()
            assert zeros_in(prepared[0].weight) < 96
            raise KeyError

    with pytest.raises(KeyError):
        train_a_little()
    assert zeros_in(prepared[0].weight) == 96
    assert not prepared.training


def test_training_resumes_from_a_state_dict_as_if_it_had_not_stopped():
    schedule = PolynomialDecaySchedule(total_iters=8, update_frequency=3)
    whole, first = (MagnitudePruner(network(), config(schedule, target_sparsity=0.75)) for _ in range(2))
    whole.prepare((X,)), first.prepare((X,))

    def go_on(pruner, data):
        prepared = pruner.prepared_model
        optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
        with pruner.training_mode() as training:
            for x in data:
                optimizer.zero_grad()
                prepared(x).square().mean().backward()
                optimizer.step()
                training.step()
            return copy.deepcopy(prepared.state_dict())

    data = torch.randn(7, 4, 8, generator=torch.Generator().manual_seed(2))
    expected = go_on(whole, data)
    file = io.BytesIO()
    torch.save(go_on(first, data[:4]), file)
    file.seek(0)
    second = MagnitudePruner(network(), config(schedule, target_sparsity=0.75))
    second.prepare((X,)).load_state_dict(torch.load(file, weights_only=True))
    found = go_on(second, data[4:])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_schedule_whose_steps_nobody_counts_is_reported():
    pruner = MagnitudePruner(network(), config(PolynomialDecaySchedule(total_iters=4)))
    pruner.prepare((X,))
    with pruner.training_mode():
        pass
    with pytest.warns(UnusedScheduleWarning, match="step\\(\\) was never called"), pruner.training_mode():
        pass


def test_pruning_can_be_turned_off_in_a_part_of_the_model():
    model = network()
    pruner = MagnitudePruner(model)
    prepared = pruner.prepare((X,))
    pruner.disable_fake_prune(prepared[0])
    assert torch.equal(prepared[0].weight, model[0].weight)
    assert zeros_in(prepared[3].weight) == 32
    pruner.enable_fake_prune()
    assert zeros_in(prepared[0].weight) == 64


def test_tied_weights_have_one_mask_and_are_stored_once():
    model = network()
    model.append(nn.Linear(4, 16))
    model.append(nn.Linear(16, 4))
    model[5].weight = model[3].weight
    pruner = MagnitudePruner(model)
    prepared = pruner.prepare((X,))
    assert prepared[3].weight_mask is prepared[5].weight_mask
    finalized = pruner.finalize()
    assert finalized[3].weight_nonzero_data is finalized[5].weight_nonzero_data


def test_prepared_and_finalized_models_are_pickled_and_copied():
    pruner = MagnitudePruner(network().eval())
    for model in (pruner.prepare((X,)), pruner.finalize(), pruner.finalize(backend=ExportBackend.CoreML)):
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert torch.equal(loaded(X), model(X))
        assert torch.equal(copy.deepcopy(model)(X), model(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_16_bits_keep_their_dtype(dtype):
    pruner = MagnitudePruner(network().to(dtype).eval())
    prepared = pruner.prepare((X.to(dtype),))
    finalized = pruner.finalize()
    assert finalized[0].weight.dtype == dtype
    assert torch.equal(finalized(X.to(dtype)), prepared(X.to(dtype)))


def test_kept_elements_are_mapped_from_files(tmp_path):
    pruner = MagnitudePruner(network().eval())
    prepared = pruner.prepare((X,))
    finalized = pruner.finalize(mmap_dir=tmp_path)
    assert (tmp_path / "0.weight_nonzero_data.bin").stat().st_size == 64 * 4
    assert torch.equal(finalized(X), prepared(X))


def test_misuse_is_named():
    pruner = MagnitudePruner(network())
    with pytest.raises(LifeCycleError, match="prepare"):
        pruner.finalize()
    prepared = pruner.prepare((X,))
    with pytest.raises(LifeCycleError, match="already prepared its model"):
        pruner.prepare((X,))
    with pytest.raises(LifeCycleError, match="was prepared by a MagnitudePruner"):
        MagnitudePruner(prepared).prepare((X,))
    with pytest.raises(LifeCycleError, match="not prepared by this MagnitudePruner"):
        pruner.finalize(network())
    with pytest.raises(PruningError, match="does not run on the example inputs"):
        MagnitudePruner(network()).prepare((torch.ones(3, 3),))
    with pytest.raises(UnmatchedConfigError, match="nowhere"):
        MagnitudePruner(network(), MagnitudePrunerConfig().set_module_name("nowhere", None)).prepare((X,))
    with pruner.training_mode(), pytest.raises(LifeCycleError, match="already open"), pruner.training_mode():
        pass


def test_a_failed_prepare_may_be_tried_again():
    model = network()
    model[0].weight.data[0, 0] = float("inf")
    pruner = MagnitudePruner(model)
    with pytest.raises(PruningError, match=r"0\.weight has 1 values that are not finite"):
        pruner.prepare((X,))
    model[0].weight.data[0, 0] = 1.0
    assert zeros_in(pruner.prepare((X,))[0].weight) == 64
