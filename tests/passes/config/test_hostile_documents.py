"""YAML documents and pipelines that are malformed on purpose: refused by an error of ours."""

from __future__ import annotations

import pytest

from graphpress.passes.config import documents
from graphpress.passes.config.errors import SpecError
from graphpress.passes.framework import Pipeline
from graphpress.passes.framework.errors import PipelineSyntaxError


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
