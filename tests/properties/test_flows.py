"""Whole flows over generated modules keep their properties, on both backends."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphpress.ir.errors import GraphpressError
from tests.properties import flows
from tests.properties.flows import FLOWS, Case, Compressed, check, compress
from tests.properties.generated_modules import Chain, Join, Layer, Plan, Skip, Tied, Twice, Within, plans

CASES = st.builds(Case, plans(), st.sampled_from(FLOWS), trains=st.booleans())
CONVERTED = st.builds(
    Case, plans(), st.sampled_from(FLOWS), st.sampled_from(["coreai", "coreml"]), st.booleans(), st.booleans()
)
THOROUGH = settings(deadline=None, suppress_health_check=list(HealthCheck))


def assert_kept(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(case, Path(folder))


@given(CASES)
@settings(THOROUGH, max_examples=8)
def test_flows_of_generated_modules_keep_their_properties(case):
    assert_kept(case)


@pytest.mark.slow
@given(CASES)
@settings(THOROUGH, max_examples=120)
def test_many_flows_of_generated_modules_keep_their_properties(case):
    assert_kept(case)


@pytest.mark.matrix
@given(CONVERTED)
@settings(THOROUGH, max_examples=40)
def test_files_of_generated_modules_compute_what_the_modules_do(case):
    assert_kept(case)


PICTURE = Chain((Layer("conv_norm_relu"), Skip(Layer("squeeze_excite")), Join("cat", Layer("halves"), Layer("up"))))
SENTENCE = Chain((Tied(Layer("pre_norm")), Twice(Layer("fused_heads")), Within("signals", Layer("down_and_up"))))
FIXED = [
    Case(Plan("images", PICTURE, "pixels", "nested"), "w8a8", "coreai"),
    Case(Plan("images", PICTURE, "two", "with_none", "float16"), "pruned w8", "coreml"),
    Case(Plan("tokens", SENTENCE, "tied", "twice"), "joint int8", "coreai", trains=True),
    Case(Plan("tokens", SENTENCE, "masked", "with_dtypes"), "w4 blocks", "coreml"),
    Case(Plan("signals", Layer("conv_norm"), "optional"), "w8a8", "coreml", is_cast=True),
    Case(Plan("images", Layer("batch_norm"), "one", "with_dtypes", "bfloat16"), "w8a8", "coreml"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", FIXED, ids=lambda case: f"{case.flow} to {case.backend} in {case.plan.dtype}")
def test_some_files_compute_what_their_modules_do(case):
    assert_kept(case)


SMALL = Plan("tokens", Layer("linear"))


def changes_the_model(flow, model, inputs, data):
    model.head.weight.data.add_(1)
    return compress(flow, model, inputs, data)


def leaves_a_hook(flow, model, inputs, data):
    model.body.register_forward_hook(lambda *_: None)
    return compress(flow, model, inputs, data)


def draws_a_number(flow, model, inputs, data):
    torch.rand(1)
    return compress(flow, model, inputs, data)


def changes_an_input(flow, model, inputs, data):
    data[0][0].neg_()
    return compress(flow, model, inputs, data)


def does_not_compress(flow, model, inputs, data):
    return Compressed(model, model, is_exact=True)


def finalizes_another(flow, model, inputs, data):
    made = compress(flow, model, inputs, data)
    return Compressed(made.prepared, compress("w8", model, inputs, data).finalized, is_exact=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (changes_the_model, "head weight has other values"),
        (leaves_a_hook, "hooks was"),
        (draws_a_number, "random was"),
        (changes_an_input, "input 1 has other values"),
        (does_not_compress, "off by"),
        (finalizes_another, "off by"),
    ],
)
def test_a_wrong_flow_is_found(wrong, said, monkeypatch):
    monkeypatch.setattr(flows, "compress", wrong)
    with pytest.raises(AssertionError, match=said):
        assert_kept(Case(SMALL, "w4"))


def test_errors_that_are_not_ours_are_faults(monkeypatch):
    def fails(flow, model, inputs, data):
        raise KeyError(flow)

    monkeypatch.setattr(flows, "compress", fails)
    with pytest.raises(KeyError):
        assert_kept(Case(SMALL, "w8"))
    assert not issubclass(KeyError, GraphpressError)
