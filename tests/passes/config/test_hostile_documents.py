"""YAML documents and pipelines that are malformed on purpose: refused by an error of ours."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from graphpress import GraphpressError
from graphpress.passes.config import (
    documents,
    granularity,
    palettization_config,
    palettization_spec,
    pruning_config,
    pruning_spec,
    quantization_config,
    quantization_spec,
)
from graphpress.passes.config.base import CompressionConfig
from graphpress.passes.config.errors import SpecError
from graphpress.passes.framework import Pipeline, Repeat
from graphpress.passes.framework.errors import PipelineSyntaxError
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.registry import lookup_pass
from graphpress.passes.framework.steps import check_order


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 2000, "a: " + "9" * 5000, "a: 2020-13-45", "? [1, 2]\n: 3\n", 'a: !!int "x"\n']
)
def test_a_malformed_document_is_an_error_of_ours(text):
    with pytest.raises(SpecError, match="is not valid YAML"):
        documents.read(text)


@pytest.mark.parametrize("text", ["repeat{max=" + "9" * 5000 + "}(dce)", "repeat(" * 2000, "dce{x=" + "[" * 2000])
def test_a_malformed_pipeline_is_an_error_of_ours(text):
    with pytest.raises(PipelineSyntaxError):
        Pipeline.parse(text)


def test_nested_repeats_are_checked_in_time_linear_in_their_depth():
    visits = 0

    class Counting(lookup_pass("dce")):
        @property
        def needs(self):
            nonlocal visits
            visits += 1
            return frozenset()

    step: Pass | Repeat = Counting()
    for _ in range(40):
        step = Repeat(step)
    check_order((step,), frozenset())
    assert visits < 10


def test_repeats_in_text_nest_sixteen_deep_and_no_deeper():
    assert len(Pipeline.parse("repeat(" * 16 + "dce" + ")" * 16).steps) == 1
    with pytest.raises(PipelineSyntaxError, match="16 levels"):
        Pipeline.parse("repeat(" * 17 + "dce" + ")" * 17)


def _bomb(first: str, more: str) -> str:
    """A text of 40 anchors, each of which repeats the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {more.replace('*', f'*a{i - 1}')}" for i in range(1, 40)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _bomb("[1, 2]", "[*, *, *]"),
        _bomb("{x: 1}", "{p: *, q: *, r: *}"),
        _bomb("{x: 1}", "{<<: [*, *, *]}"),
        "a: &a [1, *a]",
        "a: &a {b: *a}",
        "a: &a {<<: *a, b: 1}",
        "a: " + "1:" * 50_000 + "1",
        "a: " + "1:" * 3000 + "1.5",
    ],
)
def test_aliases_and_numbers_that_expand_are_refused(text):
    with pytest.raises(SpecError, match="is not valid YAML"):
        documents.read(text + "\n")


def test_aliases_and_merge_keys_of_a_common_size_are_read():
    data = documents.read("base: &b {x: 1, y: [2, 3]}\nleft: {<<: *b, y: 4}\nright: [*b, *b]\n")
    whole = {"x": 1, "y": [2, 3]}
    assert data == {"base": whole, "left": {"x": 1, "y": 4}, "right": [whole, whole]}


def test_documents_larger_than_the_bound_of_aliases_are_read():
    data = documents.read("a: [" + ", ".join(["1"] * 10_500) + "]\n")
    assert len(data["a"]) == 10_500


ODD: list[Any] = [
    [], {}, [[]], {"type": []}, {"type": {}}, {"a": []}, {1: 2}, {(): 1}, "", "x", "x{", "default{a=[}", 1.5, math.nan,
    math.inf, 10**400, -1, True, [1, 2, 3], [None], ["x"], {"*": []}, {"*": 1}, {"(": None}, b"x", object(),
    {"type": "per_channel", "axis": []}, {"type": "per_channel", "axis": 10**30},
]  # fmt: skip
MODULES = (
    granularity,
    palettization_config,
    palettization_spec,
    pruning_config,
    pruning_spec,
    quantization_config,
    quantization_spec,
)


def test_every_argument_of_every_spec_and_config_accepts_a_value_or_refuses_it_with_an_error_of_ours():
    classes = {cls for module in MODULES for cls in vars(module).values() if isinstance(cls, type) and attrs.has(cls)}
    raw, refused = set(), 0
    for cls in classes - {CompressionConfig}:
        for field in attrs.fields(cls):
            for value in ODD if field.init else ():
                try:
                    cls(**{field.alias: value})
                except GraphpressError:
                    refused += 1
                except Exception as error:
                    raw.add(f"{cls.__name__}({field.alias}={value!r}): {error!r}")
    assert raw == set()
    assert refused > 1000
