"""What every pass declares: pipelines are ordered, repeated and checked by it."""

from __future__ import annotations

import attrs
import pytest

from graphpress.passes.framework import CLOSE, EXACT, LOSSY, lookup_pass, registered_passes

TABLES = LOSSY(against="the dequantized LUT")
# name: (effect, does a second run change nothing, facts it needs, facts it gives)
DECLARED = {
    "annotate-fusion": (EXACT, True, {"canonical"}, {"fusion-annotated"}),
    "assign-quantizers": (EXACT, True, {"fusion-annotated"}, {"quantizers-assigned"}),
    "canonicalize": (CLOSE(), True, set(), {"canonical"}),
    "convert-fake-quant": (CLOSE(0, 0), True, {"constants-folded", "quantizers-inserted"}, {"quantizers-converted"}),
    "cse": (EXACT, True, set(), set()),
    "dce": (EXACT, True, set(), set()),
    "dedup-fake-quant": (EXACT, True, {"quantizers-inserted"}, set()),
    "equalize-layers": (CLOSE(1e-4, 1e-5), False, {"batch-norm-folded"}, {"layers-equalized"}),
    "fold-batch-norm": (CLOSE(3e-4, 1e-5), True, {"canonical"}, {"batch-norm-folded"}),
    "fold-constants": (EXACT, True, set(), {"constants-folded"}),
    "fold-norm-weights": (CLOSE(1e-4, 1e-5), True, {"batch-norm-folded"}, {"norm-weights-folded"}),
    "palettize-weights": (TABLES, True, set(), set()),
    "remove-dropout": (EXACT, False, set(), set()),
    "rotate-residual": (CLOSE(3e-4, 1e-5), False, {"norm-weights-folded"}, {"residual-rotated"}),
    "share-quantizers": (EXACT, True, {"quantizers-assigned"}, {"quantizers-shared"}),
    "smooth-layers": (CLOSE(1e-4, 1e-5), False, {"batch-norm-folded"}, {"layers-smoothed"}),
}


@pytest.mark.parametrize("name", DECLARED)
def test_a_pass_declares(name):
    effect, is_idempotent, needs, gives = DECLARED[name]
    found = lookup_pass(name)
    assert found.effect == effect
    assert found.is_idempotent is is_idempotent
    assert {fact.name for fact in found.needs} == needs
    assert {fact.name for fact in found.gives} == gives


@pytest.mark.parametrize("pass_class", registered_passes(), ids=lambda cls: cls.__name__)
def test_a_pass_is_a_value_that_cannot_be_changed(pass_class):
    required = [field for field in attrs.fields(pass_class) if field.default is attrs.NOTHING and field.init]
    assert pass_class.__doc__
    if required:
        pytest.skip("made with arguments")
    one, other = pass_class(), pass_class()
    assert one == other
    assert str(one) == pass_class.name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.anything = 1
