"""Fine-tuning of tables: gradients by a plain reference, schedules, and that what was trained is what is stored."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphpress import ExportBackend
from graphpress.compressor import UnusedScheduleWarning
from graphpress.inspection import bits_per_weight
from graphpress.modules.surgery import placed
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    learning,
)
from graphpress.palettization.forms import FakePalettized
from graphpress.palettization.spec import PerGroupedChannelGranularity, TableTrainingSpec
from graphpress.passes.config import SpecError
from graphpress.quantization import QuantizationSpec

DATA = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(1))
TARGET = torch.randn(8, 8, 7, 7, generator=torch.Generator().manual_seed(2))
GROUPS = PerGroupedChannelGranularity(group_size=4)
SPECS = {
    "one table": {},
    "groups": {"granularity": GROUPS},
    "groups of inputs": {"granularity": PerGroupedChannelGranularity(axis=1, group_size=4)},
    "pairs": {"cluster_dim": 2},
    "pairs in groups, scaled": {"cluster_dim": 2, "granularity": GROUPS, "enable_per_channel_scale": True},
    "scaled": {"enable_per_channel_scale": True},
    "int8": {"lut_qspec": QuantizationSpec()},
    "int8, scaled": {"lut_qspec": QuantizationSpec(), "enable_per_channel_scale": True},
    "uint8, groups, scaled": {
        "lut_qspec": QuantizationSpec(dtype="uint8", qscheme="asymmetric"),
        "granularity": GROUPS,
        "enable_per_channel_scale": True,
    },
    "minval": {"lut_qspec": QuantizationSpec(qscheme="asymmetric", qformulation="minval")},
    "float8": {"lut_qspec": QuantizationSpec(dtype="float8_e4m3fn")},
}


class Layers(nn.Module):
    """A convolution, a transposed one, and a layer that is skipped."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.last(self.up(torch.relu(self.conv(x))))


def layers():
    torch.manual_seed(0)
    return Layers().eval()


def config(assignments="fixed", schedule=None, **spec):
    each = PalettizationSpec(
        **{"n_bits": 2, "training_strategy_spec": {"type": "tables", "assignments": assignments}, **spec}
    )
    whole = ModuleKMeansPalettizerConfig(op_state_spec={"weight": each}, pat_schedule=schedule)
    return KMeansPalettizerConfig(global_config=whole, module_name_configs={"last": None})


def prepared(wanted, model=None):
    palettizer = KMeansPalettizer(model or layers(), wanted)
    return palettizer, palettizer.prepare((DATA,))


def loss_of(model):
    return functional.mse_loss(model(DATA), TARGET)


def train(palettizer, model, steps=4, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(palettizer.table_parameters(), lr=1e-2)
    losses = []
    with palettizer.training_mode():
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            palettizer.step()
            losses.append(loss.item())
    return losses


def looked_up(layer, entries, change):
    """A weight by plain indexing: each element its entry, times the scale of its channel."""
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    width = entries.shape[-1]
    index = layer.weight_indices.long().repeat_interleave(width, axis)
    shape = index.shape
    places = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    blocks = [place // (n // count) for place, n, count in zip(places, shape, entries.shape, strict=False)]
    weight = entries[(*blocks, index, places[axis] % width)]
    if change is None:
        return weight
    scale = (layer.weight_channel_scale * change.exp()).detach()
    if layer.weight_lut.dtype != torch.float32:  # then to 8 bits, upwards
        unit = torch.exp2(scale.log2().floor() - 7)
        scale = (scale / unit).ceil() * unit
    return weight * scale


def rounded(exact, to):
    """`to` with the gradient of `exact`."""
    return exact + (to - exact).detach()


def reference_gradients(model):
    """Gradients of the loss by torch's own derivatives, of a model whose weights are looked up by plain indexing."""
    leaves, weights = {}, {}
    for name in ("conv", "up"):
        layer = getattr(model, name)
        made = {
            part: getattr(layer, f"weight_{part}").detach().clone().requires_grad_()
            for part in ("entries", "scale_change")
            if hasattr(layer, f"weight_{part}")
        }
        exact = looked_up(layer, made["entries"], made.get("scale_change"))
        weights[name] = rounded(exact, layer.weight.detach())
        if "scale_change" in made:  # a gain of the channel, which is 1 where it is
            weights[name] = weights[name] * (made["scale_change"] - made["scale_change"].detach()).exp()
        leaves |= {f"{name}.weight_{part}": leaf for part, leaf in made.items()}
    x = functional.conv2d(DATA, weights["conv"], model.conv.bias, padding=1).relu()
    x = functional.conv_transpose2d(x, weights["up"], model.up.bias)
    loss = functional.mse_loss(model.last(x), TARGET)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize("kind", SPECS)
def test_gradients_of_entries_and_scales_are_those_of_plain_indexing(kind):
    palettizer, model = prepared(config(**SPECS[kind]))
    train(palettizer, model, 2)  # away from the start, where changes of scales are zero
    expected = reference_gradients(model)
    model.zero_grad()
    loss_of(model).backward()
    assert len(expected) == (4 if "scaled" in kind else 2)
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6)
    assert model.conv.weight_indices.unique().tolist() == [0, 1, 2, 3]
    assert model.conv._parameters["weight"].grad is None


@pytest.mark.parametrize(("kind", "step"), [("one table", 1e-3), ("int8, scaled", 2e-2)])
def test_gradients_agree_with_finite_differences(kind, step):
    """Of the loss itself: what an entry does to it, found by moving the entry."""
    _, model = prepared(config(**SPECS[kind]))
    loss_of(model).backward()
    entries = model.conv.weight_entries
    place, moved = (0, 0, 0, 0, 1, 0), []
    for sign in (1, -1):
        with torch.no_grad():
            entries[place] += sign * step
            moved.append(loss_of(model).item())
            entries[place] -= sign * step
    assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(entries.grad[place].item(), rel=0.05)


NOT_IN_CORE_ML = ("float8", "minval", "pairs in groups, scaled")


@pytest.mark.parametrize("backend", [ExportBackend.CoreAI, ExportBackend.CoreML])
@pytest.mark.parametrize("kind", [kind for kind in SPECS if kind not in NOT_IN_CORE_ML])
def test_what_was_trained_is_what_is_finalized(kind, backend):
    check_finalized(kind, backend)


@pytest.mark.parametrize("kind", NOT_IN_CORE_ML)
def test_what_was_trained_is_what_is_finalized_where_only_core_ai_has_such_tables(kind):
    check_finalized(kind, ExportBackend.CoreAI)


def check_finalized(kind, backend):
    palettizer, model = prepared(config(**SPECS[kind]))
    start = model.conv.weight.detach().clone()
    indices = model.conv.weight_indices.clone()
    losses = train(palettizer, model)
    assert losses[-1] < losses[0]
    assert not torch.equal(model.conv.weight, start)
    assert torch.equal(model.conv.weight_indices, indices)
    finalized = palettizer.finalize(backend=backend)
    with torch.no_grad():
        assert torch.equal(finalized(DATA), model(DATA))
    names = {name.rpartition("_")[2] for name in finalized.state_dict()}
    assert not names & {"entries", "change", "steps"}
    assert len(list(finalized.parameters())) == (4 if backend is ExportBackend.CoreAI else 6)


def test_weights_learn_too_where_assignments_are_nearest():
    palettizer, model = prepared(config("nearest"))
    indices, entries = model.conv.weight_indices.clone(), model.conv.weight_entries.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = train(palettizer, model, 8, optimizer)
    assert losses[-1] < losses[0]
    assert not torch.equal(model.conv.weight_indices, indices)
    assert not torch.equal(model.conv.weight_entries, entries)
    weight = model.conv._parameters["weight"].detach()
    table = model.conv.weight_lut.flatten()
    nearest = table[(weight[..., None] - table).abs().argmin(-1)]
    assert torch.equal(model.conv.weight, nearest)
    with torch.no_grad():
        assert torch.equal(palettizer.finalize()(DATA), model(DATA))


def test_the_weight_gets_the_gradient_of_the_palettized_one():
    _, model = prepared(config("nearest"))
    model.conv._parameters["weight"].grad = None
    weight = model.conv.weight
    weight.retain_grad()
    (weight * torch.arange(weight.numel()).reshape(weight.shape)).sum().backward()
    expected = torch.arange(weight.numel(), dtype=torch.float32).reshape(weight.shape)
    assert torch.equal(model.conv._parameters["weight"].grad, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, lr=1e-2),
        lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False),
        lambda p: torch.optim.RMSprop(p, lr=1e-3),
        lambda p: torch.optim.Rprop(p, lr=1e-3),
        lambda p: torch.optim.Adagrad(p, lr=1e-2),
    ],
    ids=["SGD", "Adam", "AdamW", "RMSprop", "Rprop", "Adagrad"],
)
def test_any_optimizer_trains_the_tables(make):
    palettizer, model = prepared(config(lut_qspec=QuantizationSpec(), enable_per_channel_scale=True))
    losses = train(palettizer, model, 6, make(model.parameters()))
    assert losses[-1] < losses[0]


def test_an_optimizer_that_evaluates_the_loss_often_trains_the_tables():
    palettizer, model = prepared(config())
    optimizer = torch.optim.LBFGS(palettizer.table_parameters(), max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    before = loss_of(model).item()
    with palettizer.training_mode():
        optimizer.step(closure)
    assert loss_of(model).item() < before


def test_training_of_tables_alone_leaves_everything_else_as_it_was():
    palettizer, model = prepared(config(enable_per_channel_scale=True))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(parameter)] for parameter in palettizer.table_parameters()}
    assert trained == {f"{layer}.weight_{part}" for layer in ("conv", "up") for part in ("entries", "scale_change")}
    before = copy.deepcopy(model.state_dict())
    train(palettizer, model)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    stored = {f"{layer}.weight_{part}" for layer in ("conv", "up") for part in ("lut", "scale")}
    assert moved == trained | stored | {"_training_steps"}


def test_a_state_dict_carries_what_was_trained():
    wanted = config("nearest", lut_qspec=QuantizationSpec(), enable_per_channel_scale=True)
    palettizer, model = prepared(wanted)
    train(palettizer, model, 3, torch.optim.SGD(model.parameters(), lr=0.3))
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    again, other = prepared(wanted)
    other.load_state_dict(torch.load(saved, weights_only=True))
    for resumed in (other, copy.deepcopy(model)):
        with torch.no_grad():
            assert torch.equal(resumed(DATA), model(DATA))
    assert torch.equal(again.finalize()(DATA), palettizer.finalize()(DATA))
    losses = [
        train(each, trained, 3, torch.optim.SGD(trained.parameters(), lr=0.3))
        for each, trained in ((palettizer, model), (again, other))
    ]
    assert losses[0] == losses[1]


def test_a_whole_prepared_model_is_saved_and_trains_on():
    palettizer, model = prepared(config(enable_per_channel_scale=True))
    train(palettizer, model)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    assert torch.equal(loaded(DATA), model(DATA))
    loss_of(loaded).backward()
    assert loaded.conv.weight_entries.grad.abs().sum() > 0
    assert torch.equal(palettizer.finalize(loaded)(DATA), model(DATA))


def test_what_is_trained_is_not_counted_as_weights():
    wanted = {
        strategy: config(training_strategy_spec=strategy, **SPECS["int8, scaled"]) for strategy in ("default", "tables")
    }
    counted = {strategy: bits_per_weight(prepared(each)[1]) for strategy, each in wanted.items()}
    assert counted["tables"] == counted["default"] == bits_per_weight(prepared(wanted["tables"])[0].finalize())


def test_shared_weights_share_their_tables_and_gradients_add_up():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[1].weight = model[0].weight
    wanted = config()
    wanted.module_name_configs = {}
    palettizer = KMeansPalettizer(model, wanted)
    data = torch.randn(4, 16)
    ready = palettizer.prepare((data,))
    (entries,) = palettizer.table_parameters()
    assert ready[0].weight_entries is ready[1].weight_entries is entries
    ready(data).square().sum().backward()
    leaf = entries.detach().clone().requires_grad_()
    weight = looked_up(ready[0], leaf, None)
    out = functional.linear(functional.linear(data, weight, ready[0].bias), weight, ready[1].bias)
    torch.testing.assert_close(entries.grad, torch.autograd.grad(out.square().sum(), leaf)[0], rtol=1e-4, atol=1e-4)
    copied = copy.deepcopy(ready)
    assert copied[0].weight_entries is copied[1].weight_entries
    torch.optim.SGD([entries], lr=1e-4).step()
    finalized = palettizer.finalize()
    assert finalized[0].weight_lut is finalized[1].weight_lut
    assert torch.equal(finalized(data), ready(data))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_16_bits_train_their_tables_in_float32(dtype):
    torch.manual_seed(0)
    model = nn.Linear(32, 16, bias=False).to(dtype)
    data = torch.randn(64, 32).to(dtype)
    wanted = config()
    wanted.module_name_configs = {}
    palettizer = KMeansPalettizer(model, wanted)
    ready = palettizer.prepare((data,))
    target = model(data).detach()
    optimizer = torch.optim.SGD(ready.parameters(), lr=1e-4)
    before = functional.mse_loss(ready(data), target).item()
    with palettizer.training_mode():
        for _ in range(20):
            optimizer.zero_grad()
            functional.mse_loss(ready(data).float(), target.float(), reduction="sum").backward()
            optimizer.step()
    assert ready.weight_entries.dtype is torch.float32
    assert ready.weight.dtype is dtype
    assert functional.mse_loss(ready(data), target).item() < before
    assert torch.equal(palettizer.finalize()(data), ready(data))


def test_calibration_after_training_finds_tables_anew():
    palettizer, model = prepared(config(lut_qspec=QuantizationSpec(), enable_per_channel_scale=True))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "_training_steps"}
    train(palettizer, model)
    palettizer._cluster_again(placed(model, FakePalettized))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in start.items())


# Schedules


def test_a_weight_is_trained_as_it_is_until_its_schedule_palettizes_it_anew():
    palettizer, model = prepared(config(schedule={"enable_fake_palettize": 2}))
    stale = model.conv.weight_lut.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with palettizer.training_mode() as training:
        for step in range(4):
            assert training.steps == step
            assert (len(model.conv.weight.unique()) == 4) is (step >= 2)
            optimizer.zero_grad()
            loss_of(model).backward()
            assert (model.conv._parameters["weight"].grad is None) is (step >= 2)
            assert (model.conv.weight_entries.grad is None) is (step < 2)
            optimizer.step()
            training.step()
            if step == 1:
                expected = KMeansPalettizer(nn.Sequential(whole(model.conv)), config(training_strategy_spec="default"))
                expected.config.module_name_configs.clear()
                assert torch.equal(model.conv.weight, expected.prepare()[0].weight)
    assert not torch.equal(model.conv.weight_lut, stale)


def whole(layer):
    made = nn.Conv2d(4, 8, 3, padding=1)
    made.weight = nn.Parameter(layer._parameters["weight"].detach().clone())
    return made


def test_leaving_before_the_schedule_palettizes_what_was_trained_so_far():
    palettizer, model = prepared(config(schedule={"enable_fake_palettize": 5}))
    train(palettizer, model, 2, torch.optim.SGD(model.parameters(), lr=1.0))
    assert len(model.conv.weight.unique()) == 4
    near = (model.conv.weight - model.conv._parameters["weight"]).detach().square().mean()
    assert near < 0.2 * model.conv._parameters["weight"].detach().var()
    with torch.no_grad():
        assert torch.equal(palettizer.finalize()(DATA), model(DATA))
    with palettizer.training_mode():
        assert len(model.conv.weight.unique()) > 4


def test_schedules_resume_where_they_were_saved():
    wanted = config(schedule={"enable_fake_palettize": 3})
    palettizer, model = prepared(wanted)
    train(palettizer, model, 2)
    again, other = prepared(wanted)
    other.load_state_dict(model.state_dict())
    with again.training_mode() as training:
        assert training.steps == 2
        assert len(other.conv.weight.unique()) > 4
        again.step()
        assert len(other.conv.weight.unique()) == 4


def test_steps_may_be_counted_between_epochs():
    palettizer, model = prepared(config(schedule={"enable_fake_palettize": 1}))
    used = []
    for _ in range(2):
        with palettizer.training_mode():
            assert model.training
            used.append(len(model.conv.weight.unique()) == 4)
        assert not model.training
        palettizer.step()
    assert used == [False, True]


def test_a_schedule_that_nobody_counts_for_is_told():
    palettizer, _ = prepared(config(schedule={"enable_fake_palettize": 2}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedScheduleWarning)
        with palettizer.training_mode():
            pass
    with pytest.warns(UnusedScheduleWarning, match=r"step\(\) was never called"), palettizer.training_mode():
        pass


# The spec


def test_the_spec_is_plain_data_and_says_what_it_accepts():
    text = config("nearest").to_yaml()
    assert KMeansPalettizerConfig.from_yaml(text) == config("nearest")
    assert PalettizationSpec(training_strategy_spec="tables").training_strategy_spec == TableTrainingSpec("fixed")
    with pytest.raises(SpecError, match=r"training_strategy_spec\.assignments: 'moving'.*fixed.*nearest"):
        PalettizationSpec(training_strategy_spec={"type": "tables", "assignments": "moving"})


def test_a_wrong_gradient_would_be_seen(monkeypatch):
    """A wrong version: means over elements in place of sums."""
    right = learning.LearnedTables.entry_gradient
    monkeypatch.setattr(learning.LearnedTables, "entry_gradient", lambda *given: right(*given) / 7)
    with pytest.raises(AssertionError, match="not close"):
        test_gradients_of_entries_and_scales_are_those_of_plain_indexing("one table")


def test_trained_tables_run_in_core_ai(tmp_path):
    coreai = pytest.importorskip("graphpress.backends.coreai")
    pytest.importorskip("coreai_torch")
    wanted = config("nearest", n_bits=3, lut_qspec=QuantizationSpec(), enable_per_channel_scale=True)
    wanted.set_module_name("up", config(n_bits=3).global_config)
    palettizer, model = prepared(wanted)
    untrained = coreai.convert(palettizer.finalize(), tmp_path / "untrained.aimodel", (DATA,))
    train(palettizer, model, 4, torch.optim.Adam(model.parameters(), lr=1e-2))
    finalized = palettizer.finalize()
    info = coreai.convert(finalized, tmp_path / "m.aimodel", (DATA,))
    report = coreai.check(info.path, finalized, (DATA,), tolerance=1e-5)
    assert report.ok, report
    assert info.weight_bytes == untrained.weight_bytes


def test_a_compiled_model_computes_and_learns_the_same():
    palettizer, model = prepared(config("nearest", enable_per_channel_scale=True))
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(DATA), model(DATA))
    with palettizer.training_mode():
        loss_of(compiled).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        loss_of(model).backward()
    assert len(gradients) == 10
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
    torch.compiler.reset()
