"""Records of weights that a config means and that are not compressed."""

from __future__ import annotations

import warnings

import pytest

from graphpress.ir.location import Location, ModuleScope, Origin
from graphpress.passes.config import (
    AxisError,
    BlockSizeError,
    Indivisible,
    SkippedWeight,
    SkipReason,
    WholeWeightsWarning,
    cannot_be_cut,
    indivisible,
    warn_of_skipped,
)

SIZE = BlockSizeError("head.weight", (10, 8), 0, 16, "group_size")
AXIS = AxisError("op type 'einsum' has no default axis")
HEAD = Location((Origin((ModuleScope("", "Net"), ModuleScope("head", "torch.nn.Linear")), "net.py", 7),))


def test_the_record_of_a_weight_that_blocks_do_not_divide_says_which_sizes_do():
    record = indivisible("head.weight", SIZE, HEAD)
    assert record.reason is SkipReason.INDIVISIBLE
    assert str(record) == (
        "skipped head.weight: group_size=16 does not divide axis 0 of size 10; these do: 1, 2, 5, 10"
    )
    assert record.line.startswith("head.weight (head (Linear) at net.py:7): group_size=16")
    assert record.data() == {"name": "head.weight", "reason": "indivisible", "detail": record.detail}


def test_one_warning_tells_all_that_is_news_from_the_line_of_the_caller():
    records = [
        SkippedWeight("a.weight", SkipReason.TOO_SMALL, "of 4 elements"),
        SkippedWeight("b.weight", SkipReason.ALREADY_COMPRESSED, "it is compressed already"),
        SkippedWeight("c.weight", SkipReason.COMPUTED, "by a parametrization"),
    ]
    with pytest.warns(WholeWeightsWarning) as caught:
        warn_of_skipped(records, stacklevel=1)
    (warning,) = caught
    assert str(warning.message) == "2 weights skipped:\n  a.weight: of 4 elements\n  c.weight: by a parametrization"
    assert warning.filename == __file__


def test_nothing_is_told_of_weights_that_were_compressed_before():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_skipped([SkippedWeight("b.weight", SkipReason.ALREADY_COMPRESSED, "it is compressed already")])
    assert caught == []


@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        (Indivisible.of(True), set()),
        (Indivisible.of(False), {"blanket size", "blanket axis", "specific size", "specific axis"}),
        (Indivisible.of(None), {"specific size", "specific axis"}),
        (Indivisible.REFUSE_UNLESS_UNKNOWN, {"blanket size", "specific size", "specific axis"}),
    ],
)
def test_a_rule_says_which_weights_that_cannot_be_cut_are_errors(rule, refused):
    cases = {
        f"{how} {what}": rule.refuses(error, is_specific=how == "specific")
        for how in ("blanket", "specific")
        for what, error in (("size", SIZE), ("axis", AXIS))
    }
    assert {case for case, is_refused in cases.items() if is_refused} == refused


def test_the_error_names_every_weight_and_the_way_out():
    message = cannot_be_cut([indivisible("a", SIZE), indivisible("b", AXIS)])
    assert message.startswith(
        "2 weights cannot be divided as the config says (leave_indivisible=True skips such weights):"
    )
    assert message.endswith("\n  b: op type 'einsum' has no default axis")
