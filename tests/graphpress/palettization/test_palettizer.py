import copy
import io
import pickle
import warnings
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

import graphpress
from graphpress import ExportBackend
from graphpress.compressor import ArgumentTypeError, LifeCycleError
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationError,
    PalettizationSpec,
    PalettizationWarning,
)
from graphpress.palettization.config import OpKMeansPalettizerConfig
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.passes.config import UnmatchedConfigError
from graphpress.quantization import QuantizationSpec

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 32, (2, 5), generator=torch.Generator().manual_seed(1))


class Pictures(nn.Module):
    """Convolutions, a norm, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.up(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


class Words(nn.Module):
    """Tied embeddings, attention, a recurrent layer, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.recurrent = nn.LSTM(16, 16, batch_first=True)
        self.mix = nn.Parameter(torch.randn(16, 16) / 4)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        h = self.embed(x)
        h = self.encoder(self.attention(h, h, h)[0])
        return self.head(self.recurrent(h @ self.mix)[0])


def pictures():
    torch.manual_seed(0)
    return Pictures().eval()


def words():
    torch.manual_seed(0)
    return Words().eval()


def config(*names, **spec):
    each = PalettizationSpec(**spec)
    return KMeansPalettizerConfig(
        global_config=ModuleKMeansPalettizerConfig(
            op_state_spec=dict.fromkeys(names or ("weight", "in_proj_weight"), each)
        )
    )


def prepared(model, wanted=None, inputs=(IMAGE,), **options):
    palettizer = KMeansPalettizer(model, wanted)
    return palettizer, palettizer.prepare(inputs, **options)


def palettized_names(model):
    return {
        name.removesuffix("_indices") for name, _ in model.named_buffers(remove_duplicate=False) if "_indices" in name
    }


# What comes out


def test_every_weight_has_sixteen_values_by_default():
    _, model = prepared(pictures())
    assert palettized_names(model) == {"conv.weight", "up.weight", "head.weight"}
    assert len(model.conv.weight.unique()) == 16
    assert model.norm.weight.ndim == 1
    original = pictures()
    assert 0 < (model(IMAGE) - original(IMAGE)).abs().max() < 0.2


def test_prepared_and_finalized_models_compute_the_same():
    for spec in ({}, {"lut_qspec": QuantizationSpec()}, {"enable_per_channel_scale": True}, {"cluster_dim": 2}):
        palettizer, model = prepared(pictures(), config(**spec))
        for backend in (ExportBackend.CoreAI, ExportBackend.CoreML, "coreai"):
            assert torch.equal(palettizer.finalize(backend=backend)(IMAGE), model(IMAGE))


def test_finalized_buffers_have_the_names_that_converters_look_for():
    palettizer, _ = prepared(pictures(), config(lut_qspec=QuantizationSpec(dtype="uint8", qscheme="asymmetric")))
    state = palettizer.finalize().state_dict()
    assert {f"conv.weight_{part}" for part in ("indices", "lut", "scale", "zero_point")} <= set(state)
    assert "conv.weight" not in state
    assert state["conv.weight_indices"].dtype == state["conv.weight_lut"].dtype == torch.uint8


def test_types_and_printed_form_are_those_of_the_model():
    _, model = prepared(pictures())
    original = pictures()
    assert isinstance(model.conv, nn.Conv2d)
    assert type(model.conv).__name__ == "Conv2d"
    assert type(model.conv).__module__ == "torch.nn.modules.conv"
    assert repr(model) == repr(original)


def test_all_kinds_of_layers_can_be_palettized():
    names = ("weight", "in_proj_weight", "weight_.h_l0", "mix")
    palettizer, model = prepared(words(), config(*names), (TOKENS,))
    assert palettized_names(model) >= {
        "mix",
        "recurrent.weight_hh_l0",
        "attention.in_proj_weight",
        "encoder.linear1.weight",
    }
    finalized = palettizer.finalize()
    with torch.no_grad():
        assert torch.equal(finalized(TOKENS), model(TOKENS))
        assert not torch.allclose(finalized(TOKENS), words()(TOKENS))
    torch.testing.assert_close(finalized(TOKENS), model(TOKENS))


def test_tied_weights_stay_tied():
    palettizer, model = prepared(words(), None, (TOKENS,))
    for each in (model, palettizer.finalize(), copy.deepcopy(model)):
        assert each.embed.weight_indices is each.head.weight_indices
        assert each.embed.weight_lut is each.head.weight_lut
    whole = palettizer.finalize(backend="coreml")
    assert whole.embed.weight is whole.head.weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_models_keep_their_dtype_and_finalize_to_the_same_numbers(dtype):
    model = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 8)).to(dtype)
    data = torch.randn(4, 32).to(dtype)
    for spec in ({}, {"lut_qspec": QuantizationSpec()}, {"enable_per_channel_scale": True}):
        palettizer, ready = prepared(model, config(**spec), (data,))
        assert ready[0].weight.dtype is dtype
        assert torch.equal(palettizer.finalize()(data), ready(data))


# The model and the life cycle


def test_the_model_is_never_changed():
    model = pictures().train()
    model.conv.register_forward_hook(lambda *_: None)
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    for _ in range(2):
        palettizer, ready = prepared(model)
        ready(IMAGE).sum().backward()
        palettizer.finalize()
    assert model.training
    assert [type(m) for m in model.modules()] == classes
    assert len(model.conv._forward_hooks) == 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_a_copy_the_model_itself_is_palettized():
    model = pictures()
    _, ready = prepared(model, copy=False)
    assert ready is model


def test_misuse_is_told_in_order():
    model = pictures()
    palettizer = KMeansPalettizer(model)
    with pytest.raises(LifeCycleError, match="prepare"):
        palettizer.finalize()
    with pytest.raises(LifeCycleError, match="prepare"), palettizer.training_mode():
        pass
    with pytest.raises(LifeCycleError, match="prepare"):
        palettizer.step()
    ready = palettizer.prepare((IMAGE,))
    with pytest.raises(LifeCycleError, match="already"):
        palettizer.prepare((IMAGE,))
    with pytest.raises(LifeCycleError, match="before preparation"):
        palettizer.finalize(model)
    with pytest.raises(LifeCycleError, match="Linear"):
        palettizer.finalize(nn.Linear(2, 2))
    with pytest.raises(LifeCycleError, match="prepared"):
        KMeansPalettizer(ready).prepare()
    with palettizer.training_mode(), pytest.raises(LifeCycleError, match="already open"), palettizer.training_mode():
        pass
    with pytest.raises(LifeCycleError, match="measured"):
        palettizer.save_sensitivities("nowhere")
    with pytest.raises(ArgumentTypeError, match="KMeansPalettizerConfig"):
        KMeansPalettizer(model, PalettizationSpec())
    with pytest.raises(ArgumentTypeError, match="Module"):
        KMeansPalettizer("model")
    with pytest.raises(graphpress.GraphpressError, match="CoreAI"):
        palettizer.finalize(backend="CoreIA")


def test_a_failed_prepare_can_be_repeated():
    palettizer = KMeansPalettizer(pictures())
    with pytest.raises(PalettizationError, match="Pictures does not run on the example inputs"):
        palettizer.prepare((torch.zeros(2, 5, 8, 8),))
    assert palettizer.prepare({"x": IMAGE}) is palettizer.prepared_model


def test_a_copy_of_the_prepared_model_can_be_finalized():
    palettizer, model = prepared(pictures())
    best = copy.deepcopy(model)
    with torch.no_grad():
        best.head.bias.add_(1)
    torch.testing.assert_close(palettizer.finalize(best)(IMAGE), model(IMAGE) + 1)


def test_prepared_and_finalized_models_save_load_and_copy():
    palettizer, model = prepared(words(), config("weight", "in_proj_weight", "weight_.h_l0"), (TOKENS,))
    for each in (model, palettizer.finalize()):
        saved = io.BytesIO()
        torch.save(each, saved)
        saved.seek(0)
        loaded = torch.load(saved, weights_only=False)
        for other in (loaded, copy.deepcopy(each), pickle.loads(pickle.dumps(each))):
            assert torch.equal(other(TOKENS), each(TOKENS))
            other.load_state_dict(each.state_dict())


def test_loading_other_tables_changes_what_is_computed():
    first, _ = prepared(pictures())
    torch.manual_seed(5)
    second, model = prepared(Pictures().eval())
    finalized = first.finalize()
    finalized(IMAGE)
    finalized.load_state_dict(second.finalize().state_dict())
    assert torch.equal(finalized(IMAGE), model(IMAGE))


def test_tables_are_expanded_once():
    palettizer, _ = prepared(pictures())
    finalized = palettizer.finalize()
    with torch.inference_mode():
        finalized(IMAGE)
    assert finalized.conv.weight is finalized.conv.weight
    finalized(IMAGE).sum().backward()  # what was kept in inference mode serves here too


def test_finalized_tables_can_live_in_files(tmp_path):
    palettizer, model = prepared(words(), None, (TOKENS,))
    finalized = palettizer.finalize(mmap_dir=tmp_path)
    assert torch.equal(finalized(TOKENS), model(TOKENS))
    assert finalized.embed.weight_indices is finalized.head.weight_indices
    assert (tmp_path / "embed.weight_indices.bin").stat().st_size == 32 * 16


# The config


def test_more_specific_entries_win():
    wanted = config(n_bits=4)
    wanted.set_module_type(
        nn.Linear, ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=2)})
    )
    wanted.set_module_name("up", None)
    _, model = prepared(pictures(), wanted)
    assert len(model.conv.weight.unique()) == 16
    assert len(model.head.weight.unique()) == 4
    assert len(model.up.weight.unique()) > 100


def test_ops_are_known_by_type_and_by_name():
    by_op = ModuleKMeansPalettizerConfig(
        op_type_config={"conv2d": OpKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=3)})},
        op_name_config={"head.linear": None},
    )
    _, model = prepared(pictures(), KMeansPalettizerConfig(global_config=by_op))
    assert len(model.conv.weight.unique()) == 8
    assert len(model.head.weight.unique()) > 16


def test_an_op_of_the_users_own_is_known_once_the_model_has_run():
    by_op = KMeansPalettizerConfig(
        global_config=ModuleKMeansPalettizerConfig(
            op_state_spec=None,
            op_type_config={"matmul": OpKMeansPalettizerConfig(op_state_spec={"*": PalettizationSpec()})},
        )
    )
    _, model = prepared(words(), by_op, (TOKENS,))
    assert palettized_names(model) == {"mix"}


def test_names_that_match_nothing_are_errors():
    wanted = config().set_module_name("cnov", None)
    with pytest.raises(UnmatchedConfigError, match="conv"):
        prepared(pictures(), wanted)


def test_a_config_for_some_modules_leaves_the_rest_whole():
    wanted = KMeansPalettizerConfig(module_name_configs={"conv": ModuleKMeansPalettizerConfig()})
    _, model = prepared(pictures(), wanted)
    assert palettized_names(model) == {"conv.weight"}


def test_presets_leave_what_does_not_divide_whole_and_say_so():
    with pytest.warns(PalettizationWarning, match=r"head\.weight.*group_size=16.*10"):
        _, model = prepared(pictures(), KMeansPalettizerConfig.presets.w4())
    assert palettized_names(model) == {"conv.weight"}


def test_weights_smaller_than_their_tables_are_skipped():
    with pytest.warns(
        PalettizationWarning, match=r"1 weight skipped:\n  head\.weight: of shape \(10, 8\) has 80 entries"
    ):
        _, model = prepared(pictures(), config(n_bits=8))
    assert palettized_names(model) == {"conv.weight", "up.weight"}


def test_weights_that_are_no_parameters_are_named():
    model = pictures()
    nn.utils.parametrizations.weight_norm(model.head)
    with pytest.warns(PalettizationWarning, match=r"head\.weight: it is computed"):
        _, ready = prepared(model)
    assert palettized_names(ready) == {"conv.weight", "up.weight"}


def test_what_is_meant_by_name_must_divide():
    group = PalettizationSpec(granularity=PerGroupedChannelGranularity(group_size=4))
    wanted = KMeansPalettizerConfig(
        module_name_configs={"head": ModuleKMeansPalettizerConfig(op_state_spec={"weight": group})}
    )
    with pytest.raises(PalettizationError, match=r"head\.weight.*1, 2, 5, 10"):
        prepared(pictures(), wanted)
    with pytest.warns(PalettizationWarning, match=r"head\.weight"):
        prepared(pictures(), wanted, leave_indivisible=True)


def test_weights_that_are_not_finite_are_named():
    model = pictures()
    with torch.no_grad():
        model.up.weight[0, 0] = torch.inf
    with pytest.raises(PalettizationError, match=r"up\.weight: 4 of 512"):
        prepared(model)


# Workers


class Elsewhere(Executor):
    """Runs what it is given as another process would: through pickles."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        function, args, kwargs = pickle.loads(pickle.dumps((function, args, kwargs)))
        future.set_result(pickle.loads(pickle.dumps(function(*args, **kwargs))))
        return future


def test_the_workers_do_not_change_the_result():
    wanted = config(n_bits=2, cluster_dim=2)
    _, expected = prepared(pictures(), wanted)
    with ThreadPoolExecutor(2) as threads:
        for options in ({"num_workers": 2}, {"executor": threads}, {"executor": Elsewhere()}):
            _, model = prepared(pictures(), wanted, **options)
            assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers(), strict=True))


# Calibration and training


def test_sensitivities_draw_the_tables_to_what_matters(tmp_path):
    path = tmp_path / "sensitivities.safetensors"
    palettizer, model = prepared(pictures(), config(n_bits=2))
    original = pictures()
    before = {name: getattr(model, name).weight.detach() for name in ("conv", "up", "head")}
    gradients = [parameter.grad for parameter in model.parameters()]
    with palettizer.calibration_mode(loss_fn=functional.mse_loss, sensitivity_path=path) as calibration:
        assert torch.equal(model(IMAGE), original(IMAGE))
        output = model(IMAGE)
        calibration.step(output, output.detach() + torch.arange(10))
    assert [parameter.grad for parameter in model.parameters()] == gradients
    for name, importance in load_file(path).items():
        layer = name.removesuffix(".weight")
        weight = getattr(original, layer).weight.detach()
        errors = [(importance * (w - weight).square()).sum() for w in (getattr(model, layer).weight, before[layer])]
        assert errors[0] < errors[1]
    _, again = prepared(pictures(), config(n_bits=2), sensitivity_path=path)
    assert torch.equal(again(IMAGE), model(IMAGE))


def test_calibration_without_steps_or_gradients_is_told():
    palettizer, model = prepared(pictures())
    with pytest.warns(PalettizationWarning, match="no step"), palettizer.calibration_mode(loss_fn=functional.mse_loss):
        pass
    with (
        pytest.raises(graphpress.GraphpressError, match="no_grad"),
        palettizer.calibration_mode(loss_fn=functional.mse_loss) as calibration,
        torch.no_grad(),
    ):
        calibration.step(model(IMAGE), torch.zeros(2, 10))
    with pytest.raises(PalettizationError, match="cannot read"):
        prepared(pictures(), sensitivity_path="nowhere.safetensors")


def trained(strategy, steps=3):
    palettizer, model = prepared(pictures(), config(training_strategy_spec=strategy))
    before = model.head.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    with palettizer.training_mode() as training:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(IMAGE), torch.ones(2, 10))
            loss.backward()
            optimizer.step()
            training.step()
            losses.append(loss.item())
    return palettizer, model, before, losses


def test_straight_through_training_moves_weights_between_entries():
    palettizer, model, before, losses = trained({"type": "straight_through"})
    assert losses[-1] < losses[0]
    assert not torch.equal(model.head.weight, before)
    assert set(model.head.weight.unique().tolist()) <= set(before.unique().tolist())
    assert not model.training
    assert torch.equal(palettizer.finalize()(IMAGE), model(IMAGE))


def test_by_default_training_leaves_palettized_weights_alone():
    _, model, before, losses = trained({"type": "default"})
    assert losses[-1] < losses[0]
    assert torch.equal(model.head.weight, before)


def test_a_schedule_says_when_palettized_weights_are_used():
    wanted = config()
    wanted.global_config.pat_schedule = {"enable_fake_palettize": 2}
    palettizer, model = prepared(pictures(), wanted)
    used = []
    with palettizer.training_mode():
        for _ in range(3):
            used.append(len(model.conv.weight.unique()) <= 16)
            palettizer.step()
    assert used == [False, False, True]
    assert len(model.conv.weight.unique()) == 16


def test_palettization_can_be_switched_off_and_on():
    palettizer, model = prepared(pictures())
    palettizer.disable_fake_palettize(model.conv)
    assert torch.equal(model.conv.weight, pictures().conv.weight)
    palettizer.enable_fake_palettize()
    assert len(model.conv.weight.unique()) == 16


def test_nothing_is_said_when_all_goes_well():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        prepared(pictures())
    assert [warning for warning in said if issubclass(warning.category, PalettizationWarning)] == []
