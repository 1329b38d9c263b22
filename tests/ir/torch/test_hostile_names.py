"""Names in files from strangers, which torch would write into source code that it compiles and runs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphpress.ir import to_graph_module
from graphpress.ir.errors import GraphpressError
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.torch.archives import ArchiveError, check_archive, check_keys
from graphpress.tools.passctl import models
from graphpress.tools.passctl.models import resolve


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).reshape(x.shape[0] * 2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},)
    torch.export.save(torch.export.export(Doubled().eval(), (torch.randn(5, 4),), dynamic_shapes=shapes), path)
    return path


def edited(saved: Path, target: Path, edit: Callable[[Any], Any]) -> Path:
    """A copy of an archive with another program."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("models/model.json"):
                content = json.dumps(edit(json.loads(content))).encode()
            new.writestr(name, content)
    return target


def renamed(data: Any, old: str, new: str) -> Any:
    if isinstance(data, dict):
        return {new if key == old else key: renamed(value, old, new) for key, value in data.items()}
    if isinstance(data, list):
        return [renamed(value, old, new) for value in data]
    return new if data == old else data


def guarded(data: Any, code: str) -> Any:
    return data | {"guards_code": [code]}


def with_argument(data: Any, name: str) -> Any:
    data["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [name]
    return data


def with_key(data: Any, key: str) -> Any:
    signature = data["graph_module"]["module_call_graph"][0]["signature"]
    assert '"[]"' in signature["in_spec"]
    signature["in_spec"] = signature["in_spec"].replace('"[]"', json.dumps(json.dumps([key])))
    return data


def with_text(data: Any, text: str) -> Any:
    data["graph_module"]["graph"]["inputs"].append({"as_string": text})
    return data


def called(data: Any, target: str) -> Any:
    return renamed(data, "_operator.mul", target)


EDITS: dict[str, Callable[[Any, str], Any]] = {
    "an input": lambda data, code: renamed(data, "x", f"x={code}"),
    "a node": lambda data, code: renamed(data, "linear", f"linear;{code};y"),
    "a node without quotes": lambda data, code: renamed(data, "linear", "linear;open(chr(97),chr(119));y"),
    "a parameter of the graph": lambda data, code: renamed(data, "p_linear_weight", f"p={code}"),
    "a parameter": lambda data, code: renamed(data, "linear.weight", f'w"),{code},("'),
    "an argument": lambda data, code: with_argument(data, f"x={code}"),
    "a key": lambda data, code: with_key(data, f"x':{code},'y"),
    "a key without quotes": lambda data, code: with_key(data, "x=open(chr(97),chr(119))"),
    "an input that is a text": lambda data, code: with_text(data, f"' or {code} or '"),
    "a guard": guarded,
    "a guard without names": lambda data, code: guarded(data, "open(chr(97),chr(119))"),
    "a guard with an attribute": lambda data, code: guarded(data, "L['x'].__class__ == 1"),
    "a guard with a call": lambda data, code: guarded(data, "L['x'].size(open(1))[0] == 5"),
    "a guard with a quote": lambda data, code: guarded(data, "L['x\"'].size()[0] == 5"),
    "an attribute of an object": lambda data, code: called(data, "_operator.attrgetter"),
    "a call": lambda data, code: called(data, "_operator.call"),
    "a long computation": lambda data, code: called(data, "math.factorial"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_name_that_is_code_is_refused_before_the_archive_is_loaded(saved, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    path = edited(saved, tmp_path / "evil.pt2", lambda data: EDITS[what](data, "open('ran','w')"))
    with pytest.raises(ArchiveError):
        resolve(str(path))
    assert [each.name for each in tmp_path.iterdir()] == ["evil.pt2"]


def test_the_name_of_an_input_runs_code_in_torch(saved, tmp_path):
    code = f"open({str(tmp_path / 'ran')!r},'w')"
    torch.export.load(edited(saved, tmp_path / "evil.pt2", lambda data: renamed(data, "x", f"x={code}")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "guard",
    [
        "L['x'].size()[0] == 5",
        "L['x'].size()[0] >= 2 and L['x'].stride()[1] == 1",
        "L['a'][0]['b c'].size()[1] < 9",
    ],
)
def test_a_guard_that_torch_writes_is_accepted(saved, tmp_path, guard):
    assert check_archive(edited(saved, tmp_path / "fine.pt2", lambda data: guarded(data, guard))).read(2) == b"PK"


@pytest.mark.parametrize("key", ["'+open(1)+\"", "x=open(1)", "x:y", "a\nb", ("a", "b")])
def test_a_key_in_the_example_inputs_is_no_code(key):
    check_keys(Path("m.pt2"), (({"pixel values": [1, {3: None}]},), {"x": 1}))
    for inputs in ((({key: 1},), {}), ((), {"x": [{key: 1}]})):
        with pytest.raises(ArchiveError, match="which may run code"):
            check_keys(Path("m.pt2"), inputs)


def test_the_keys_of_example_inputs_are_checked_when_an_archive_is_loaded(tmp_path, saved, monkeypatch):
    monkeypatch.setattr(models, "check_keys", lambda path, inputs: pytest.fail(f"{path.name} {len(inputs)}"))
    with pytest.raises(pytest.fail.Exception, match=r"model\.pt2 2"):
        resolve(str(saved))


LONG = {
    "a product of sums": "*".join(f"(s{number}+s{number + 40})" for number in range(30)),
    "a power of a sum": "Pow(s0+s1+s2+s3+s4+s5, 20)",
    "a large maximum": f"Max({','.join(f's{number}' for number in range(80))})",
    "nested remainders": "Mod(" * 40 + "s0" + ",7)" * 40,
}


@pytest.mark.parametrize("what", LONG)
def test_an_expression_that_sympy_takes_long_for_is_refused(saved, tmp_path, what):
    def edit(data: Any) -> Any:
        values = data["graph_module"]["graph"]["sym_int_values"]
        values["long"] = {"as_expr": {"expr_str": LONG[what], "hint": None}}
        return data

    with pytest.raises(ArchiveError, match="accepted: sizes"):
        check_archive(edited(saved, tmp_path / "long.pt2", edit))


# Graphs.

LEAF = {"type": None, "context": None, "children_spec": []}
BODY = "graph @b { input %x: f32[2] %y: f32[2] = aten.relu(self=%x) return %y }"


def spec_of(keys: list[str]) -> str:
    positional = {"type": "builtins.tuple", "context": "null", "children_spec": [] if keys else [LEAF]}
    named = {"type": "builtins.dict", "context": json.dumps(keys), "children_spec": [LEAF] * len(keys)}
    spec = {"type": "builtins.tuple", "context": "null", "children_spec": [positional, named]}
    return json.dumps(json.dumps([1, spec]))


def signature(names: list[str], keys: list[str]) -> str:
    results = json.dumps(json.dumps([1, LEAF]))
    return f"signature(argument_names={json.dumps(names)}, in_spec={spec_of(keys)}, out_spec={results})"


RELU = "%y: f32[2] = aten.relu(self=%x)"
OPEN = "open('ran','w')"
HOSTILE = {
    "the name of an argument": (RELU, signature([f"x={OPEN}"], [])),
    "the key of an argument": (RELU, signature(["x"], [f"x':{OPEN},'y"])),
    "an operand of a nested graph": (f'%y: f32[2] = hop.wrap(arg1=%x, "k={OPEN},z"=%x) {{arg0={BODY}}}', ""),
    "an attribute of a nested graph": (f'%y: f32[2] = hop.wrap(arg1=%x) {{arg0={BODY}, "k={OPEN},z"=1}}', ""),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_name_in_a_graph_that_is_code_is_refused_when_a_module_is_made(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    node, end = HOSTILE[what]
    graph = parse_graph(f"graph @main {{ input %x: f32[2] {node} return %y {end} }}")
    with pytest.raises(GraphpressError, match="accepted: a Python identifier"):
        to_graph_module(graph)
    assert list(tmp_path.iterdir()) == []


def test_names_of_values_and_constants_may_be_any_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"x={OPEN}", f"y;{OPEN};z", f'w"),{OPEN},("']
    x, y, w = (json.dumps(name) for name in names)
    text = (
        f"graph @main {{ input %{x}: f32[2] const @{w}: f32[2] parameter "
        f"%{y}: f32[2] = aten.add.Tensor(self=%{x}, other=@{w}) return %{y} }}"
    )
    module = to_graph_module(parse_graph(text, {names[2]: torch.ones(2)}))
    assert module(torch.ones(2)).tolist() == [2, 2]
    assert list(tmp_path.iterdir()) == []
