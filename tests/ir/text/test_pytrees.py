"""Pytree specs go to text and back, and text that is no spec is refused."""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import pytest
import torch
import torch.utils._pytree as pytree

from graphpress.ir.text.pytrees import TreeSpecError, dump_spec, leaf_count, load_spec, spec_children


class Pair(NamedTuple):
    one: Any
    two: Any


class Colour(Enum):
    RED = 1


@dataclass
class Boxes:
    first: Any
    second: Any


class Unregistered:
    pass


class Bag:
    def __init__(self, items, label):
        self.items, self.label = items, label


torch.export.register_dataclass(Boxes)
pytree.register_pytree_node(Bag, lambda bag: (bag.items, bag.label), lambda items, label: Bag(list(items), label))

HERE = __name__
TREES = {
    "a leaf": 1,
    "nested": [1, (2, {"a": 3, "b": [4]}), None],
    "empty": [],
    "an ordered dictionary": collections.OrderedDict(b=1, a=2),
    "a default dictionary": collections.defaultdict(list, a=1),
    "a named tuple": Pair(1, [2, Pair(3, 4)]),
    "a dataclass": Boxes(1, [2]),
    "an enumeration as a key": {Colour.RED: 1},
    "a class with a context": [Bag([1, 2], "label"), 3],
}


@pytest.mark.parametrize("name", TREES)
def test_a_spec_is_read_back(name):
    leaves, spec = pytree.tree_flatten(TREES[name])
    text = dump_spec(spec)
    assert isinstance(text, str)
    assert json.loads(text)[0] == 1
    assert load_spec(text) == spec
    assert leaf_count(text) == leaf_count(spec) == len(leaves)
    assert (
        str(pytree.tree_unflatten(leaves, load_spec(text))).split(" object at")[0]
        == (str(TREES[name]).split(" object at")[0])
    )


@pytest.mark.parametrize("name", ["a leaf", "nested", "an ordered dictionary"])
def test_what_torch_can_write_is_written_as_torch_does(name):
    spec = pytree.tree_structure(TREES[name])
    assert dump_spec(spec) == pytree.treespec_dumps(spec)


def test_a_class_without_a_serialized_name_is_called_by_module_and_name():
    (_, text) = json.loads(dump_spec(pytree.tree_structure(Pair(1, 2))))
    assert (text["type"], text["context"]) == ("collections.namedtuple", f"python:{HERE}:Pair")
    (_, text) = json.loads(dump_spec(pytree.tree_structure(Bag([1], "label"))))
    assert text["type"] == f"python:{HERE}:Bag"


def test_a_class_that_no_name_leads_to_stays_an_object():
    class Hidden(NamedTuple):
        one: Any

    spec = pytree.tree_structure(Hidden(1))
    assert dump_spec(spec) is spec
    assert load_spec(spec) is spec
    assert leaf_count(spec) == 1


def test_the_specs_one_level_down():
    children = spec_children(pytree.tree_structure((1, [2, 3])))
    assert [child.num_leaves for child in children] == [1, 2]


def written(kind: str, context: Any, protocol: int = 1) -> str:
    leaf = {"type": None, "context": None, "children_spec": []}
    return json.dumps([protocol, {"type": kind, "context": context, "children_spec": [leaf]}])


BAD = {
    "": "not a pytree spec",
    "{": "not a pytree spec",
    "[1]": "not a pytree spec",
    "[1, 2]": "not a pytree spec",
    "3": "not a pytree spec",
    '[1, {"type": null}]': "not a pytree spec",
    '[1, {"type": null, "children_spec": 3}]': "not a pytree spec",
    '[1, {"type": null, "children_spec": ["a"]}]': "not a pytree spec",
    written("builtins.list", "null", protocol=2): "not a pytree spec",
    '[1, {"type": 1, "context": null, "children_spec": ' + "[" * 5000: "not a pytree spec",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:40])
def test_text_that_is_no_spec_is_refused(text):
    for read in (load_spec, leaf_count):
        with pytest.raises(TreeSpecError, match=BAD[text]):
            read(text)


@pytest.mark.parametrize(
    ("kind", "context", "message"),
    [
        ("nobody.registered.this", "null", "no pytree class is registered as 'nobody.registered.this' here: import"),
        (
            "python:no_such_module:Class",
            "null",
            "no_such_module.Class, which is not imported: import",
        ),
        (f"python:{HERE}:NoSuchClass", "null", "NoSuchClass, which is not imported"),
        (f"python:{HERE}:Unregistered", "null", "Unregistered is not a pytree class: register it"),
        (f"python:{HERE}:HERE", "null", "HERE is not a pytree class"),
        ("collections.namedtuple", "python:no_such_module:Class", "no_such_module.Class, which is not imported"),
        (
            "collections.defaultdict",
            {"dict_context": []},
            "the pytree spec of a collections.defaultdict cannot be read",
        ),
        (
            "collections.defaultdict",
            {"default_factory_module": HERE, "default_factory_name": "HERE", "dict_context": []},
            "the default factory 'HERE' is not imported",
        ),
        ("builtins.dict", "{", "the pytree spec of a builtins.dict cannot be read"),
    ],
)
def test_a_spec_over_what_is_not_there_is_refused_but_its_leaves_are_counted(kind, context, message):
    text = written(kind, context)
    with pytest.raises(TreeSpecError, match=message):
        load_spec(text)
    assert leaf_count(text) == 1
