"""JSON that is malformed on purpose is refused by an error of ours, wherever it is read."""

import json

import pytest

from graphpress.ir.plain import PlainError, parse_json
from graphpress.ir.text.pytrees import TreeSpecError, load_spec
from graphpress.passes.framework.debugging.bundles import Bundle, BundleError
from graphpress.search import SearchError, Sensitivities

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", ["", "{", DEEP, "[" * 101 + "]" * 101, "9" * 5000, b"\xff", '"' + '\\"' * 50_000])
def test_malformed_json_is_an_error_of_ours(text):
    with pytest.raises(PlainError):
        parse_json(text)


@pytest.mark.parametrize("data", [None, 1.5, {"a": [1, {"b": "[[" * 200}]}, '"[{\\', ["\\", "]"]])
def test_other_json_is_read_as_the_standard_library_reads_it(data):
    assert parse_json(json.dumps(data)) == data
    assert parse_json("[" * 98 + json.dumps(1) + "]" * 98) == json.loads("[" * 98 + "1" + "]" * 98)


SPECS = [
    {"type": [], "context": "null", "children_spec": []},
    {"type": 3, "context": "null", "children_spec": []},
    {"type": "builtins.list", "children_spec": []},
    {"type": "builtins.list", "context": "[" * 50_000, "children_spec": []},
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_pytree_spec_with_wrong_types_is_an_error_of_ours(spec):
    with pytest.raises(TreeSpecError):
        load_spec(json.dumps([1, spec]))


@pytest.mark.parametrize("text", [DEEP, "[]", "3", '{"format": []}', '{"format": 1, "failure": 3}'])
def test_malformed_reproducers_and_sensitivities_are_errors_of_ours(text, tmp_path):
    path = tmp_path / "bundle.json"
    path.write_text(text)
    with pytest.raises(BundleError):
        Bundle.load(tmp_path)
    with pytest.raises(SearchError):
        Sensitivities.load(path)
