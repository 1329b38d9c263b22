"""Archives of exported programs from strangers are loaded without running code, or refused."""

import collections
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from graphpress.ir.torch.archives import ArchiveError, check_archive
from graphpress.tools.passctl.main import cli
from graphpress.tools.passctl.models import resolve


class _Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x).reshape(x.shape[0] * 2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    batch = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(_Model().eval(), (torch.randn(5, 4),), dynamic_shapes=({0: batch},)), path)
    return path


def _edited(source, target, edit, extra=None):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, edit(data.decode()).encode() if name.endswith("models/model.json") else data)
        for name, data in (extra or {}).items():
            new.writestr(f"{root}/{name}", data)
    return target


def test_a_dynamic_program_passes_and_loads(saved):
    check_archive(saved)
    assert torch.export.load(saved).state_dict.keys() == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "s0.func",
        "open(1)",
        "lambda: s0",
        "9**9**9",
        "(s0)(1)",
        "exec(s0)",
        "[s0]",
    ],
)
def test_an_expression_outside_the_grammar_is_refused(saved, tmp_path, expression):
    def edit(text):
        data = json.loads(text)
        values = data["graph_module"]["graph"]["sym_int_values"]
        values["evil"] = {"as_expr": {"expr_str": expression, "hint": None}}
        return json.dumps(data)

    with pytest.raises(ArchiveError, match="accepted"):
        check_archive(_edited(saved, tmp_path / "evil.pt2", edit))


def test_an_opaque_object_is_not_unpickled(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    data = {"data/constants/opaque_obj_0": pickle.dumps(Evil())}
    path = _edited(saved, tmp_path / "evil.pt2", str, data)
    with pytest.raises(ArchiveError, match="pickled"):
        check_archive(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/x.so", "data/aotinductor/model/m.json", "../outside", "data/weights/x.so"]
)
def test_compiled_code_and_names_outside_are_refused(saved, tmp_path, name):
    with pytest.raises(ArchiveError):
        check_archive(_edited(saved, tmp_path / "evil.pt2", str, {name: b"x"}))


@pytest.mark.parametrize(
    "target",
    ["torch.hub.load", "torch.ops.aten.from_file.default", "torch.load", "#x:y", "torch.ops.aten.add.__class__"],
)
def test_a_call_outside_the_list_is_refused(saved, tmp_path, target):
    path = _edited(saved, tmp_path / "evil.pt2", lambda t: t.replace("torch.ops.aten.linear.default", target))
    with pytest.raises(ArchiveError):
        check_archive(path)


def test_a_bomb_is_refused_before_it_inflates(tmp_path):
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/models/model.json", b" " * 2**26)
    with pytest.raises(ArchiveError, match="inflates"):
        check_archive(path)


@pytest.mark.parametrize(
    "expression",
    [
        "StrictLessThan(Symbol('u0', integer=True), Integer(10))",
        "Max(Integer(1), TruncToInt(Mul(Float('1.5', precision=53), ToFloat(Symbol('s3', positive=True)))))",
        "Mul(Integer(2), Pow(Symbol('s77', positive=True, integer=True), Rational(1, 2)))",
        "2*s0 + FloorDiv(s1, 2) - 1",
    ],
)
def test_an_expression_that_torch_writes_is_accepted(saved, tmp_path, expression):
    def edit(text):
        data = json.loads(text)
        data["graph_module"]["graph"]["sym_int_values"]["more"] = {"as_expr": {"expr_str": expression, "hint": None}}
        return json.dumps(data)

    check_archive(_edited(saved, tmp_path / "fine.pt2", edit))


def _conditional(x):
    return torch.cond(x.shape[0] > 4, lambda v: v.sin(), lambda v: v.cos(), (x,))


def _positive(x):
    return {"logits": x[x > 0] * 2.5, "past": [x, None]}


def _grown(x):
    return torch.nn.functional.interpolate(x, scale_factor=1.5)


def _masked(x):
    return x * ((x > 0) & (x < 1))


def _counted(x):
    return collections.defaultdict(list, {"x": x})


@pytest.mark.parametrize(
    ("function", "shape", "is_dynamic"),
    [
        (_conditional, (5,), True),
        (_positive, (9,), False),
        (_grown, (2, 3, 8), True),
        (_masked, (3,), False),
        (_counted, (3,), False),
    ],
)
def test_archives_of_real_models_are_accepted(tmp_path, function, shape, is_dynamic):
    class Model(torch.nn.Module):
        def forward(self, x):
            return function(x)

    dims = ({len(shape) - 1: torch.export.Dim.DYNAMIC},) if is_dynamic else None
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Model(), (torch.randn(shape),), dynamic_shapes=dims), path)
    check_archive(path)
    assert torch.export.load(path).graph.nodes


def _with_expression(code, saved, target):
    def edit(text):
        data = json.loads(text)
        for value in data["graph_module"]["graph"]["sym_int_values"].values():
            if "as_expr" in value:
                value["as_expr"]["expr_str"] = code
        return json.dumps(data)

    return _edited(saved, target, edit)


def test_code_in_an_expression_runs_in_torch_and_not_in_passctl(saved, tmp_path):
    canary = tmp_path / "canary"
    path = _with_expression(f"open({str(canary)!r}, 'w')", saved, tmp_path / "evil.pt2")
    refused = CliRunner().invoke(cli, ["dump", str(path)])
    assert refused.exit_code != 0
    assert "expr" in refused.output
    assert not canary.exists()
    CliRunner().invoke(cli, ["dump", str(path), "--trust"])
    assert canary.exists()  # the code of a file that the user trusts


# What torch's reader of archives finds, and Python's does not.


class _Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def _times(factor, path):
    torch.export.save(torch.export.export(_Times(factor), (torch.ones(2),)), path)
    return path


def _parts(path):
    """The members of an archive, its directory, and how many they are; with plain records."""
    plain = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(plain, "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(f"m/{name.partition('/')[2]}"), old.read(name))
    data = plain.getvalue()
    _, _, _, _, count, size, offset, _ = struct.unpack("<4s4H2LH", data[-22:])
    return data[:offset], data[offset : offset + size], count


def test_what_is_loaded_is_what_was_checked_and_no_other_directory_of_the_archive(tmp_path):
    three, hidden, count = _parts(_times(3, tmp_path / "three.pt2"))
    two, shown, _ = _parts(_times(2, tmp_path / "two.pt2"))
    assert len(hidden) == len(shown)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(shown), len(three), 0)
    (tmp_path / "both.pt2").write_bytes(three + hidden + two + shown + end)
    assert torch.export.load(tmp_path / "both.pt2").module()(torch.ones(2)).tolist() == [3, 3]
    assert torch.export.load(check_archive(tmp_path / "both.pt2")).module()(torch.ones(2)).tolist() == [2, 2]
    assert resolve(str(tmp_path / "both.pt2")).module()(torch.ones(2)).tolist() == [2, 2]


def test_a_member_is_checked_whatever_the_case_of_its_name(tmp_path):
    path = tmp_path / "upper.pt2"
    with zipfile.ZipFile(_times(2, tmp_path / "lower.pt2")) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("models/model.json"):
                name, content = name.upper(), content.replace(b"torch.ops.aten.mul.Tensor", b"torch.hub.load")
            new.writestr(name, content)
    with pytest.raises(ArchiveError, match=r"calls 'torch\.hub\.load'"):
        check_archive(path)


def test_a_member_that_is_there_twice_is_refused(saved, tmp_path):
    with pytest.raises(ArchiveError, match="there twice"):
        check_archive(_edited(saved, tmp_path / "twice.pt2", str, {"MODELS/MODEL.JSON": b"{}"}))


@pytest.mark.parametrize("name", ["models/a\nb.json", "models/\u202egpj.so", "a" * 2000])
def test_a_name_that_torch_does_not_write_is_refused(saved, tmp_path, name):
    with pytest.raises(ArchiveError, match="a name that torch does not write"):
        check_archive(_edited(saved, tmp_path / "odd.pt2", str, {name: b"{}"}))


def test_an_archive_may_have_any_printable_name(tmp_path):
    path = _times(2, tmp_path / "модель [1] é,+.pt2")
    assert resolve(str(path)).module()(torch.ones(2)).tolist() == [2, 2]


def test_members_that_share_their_bytes_are_refused(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("m/data/weights/weight_0", bytes(2**16))
    data = content.getvalue()
    _, _, _, _, _, size, offset, _ = struct.unpack("<4s4H2LH", data[-22:])
    directory = b"".join(
        data[offset : offset + size].replace(b"weight_0", f"weight_{number:03}".encode()[:8]) for number in range(9)
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, len(directory), offset, 0)
    (tmp_path / "overlap.pt2").write_bytes(data[:offset] + directory + end)
    with pytest.raises(ArchiveError, match="overlap"):
        check_archive(tmp_path / "overlap.pt2")


def test_pickled_inputs_in_an_archive_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    inputs = io.BytesIO()
    torch.save(((Evil(),), {}), inputs)
    path = tmp_path / "evil.pt2"
    with zipfile.ZipFile(_times(2, tmp_path / "good.pt2")) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, inputs.getvalue() if name.endswith("model.pt") else old.read(name))
    result = CliRunner().invoke(cli, ["dump", str(path)])
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "ran").exists()
    CliRunner().invoke(cli, ["dump", str(path), "--trust"])
    assert (tmp_path / "ran").exists()
