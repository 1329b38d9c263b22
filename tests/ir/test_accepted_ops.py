"""Files name no op that touches files, processes or foreign memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graphpress.ir.accepted_ops import refusal
from graphpress.ir.inference import infer_types
from graphpress.ir.ops import OpError, lookup_op
from graphpress.ir.text.parser import ParseError, parse_graph
from graphpress.ir.text.pytrees import TreeSpecError, load_spec


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file",
        "aten.set_.source_Tensor",
        "aten.segment_reduce",
        "aten._sparse_coo_tensor_unsafe",
        "profiler._record_function_enter",
        "mkldnn._linear_pointwise",
        "quantized.linear",
        "_c10d_functional.all_reduce",
        "inductor._mm_plus_mm",
        "hop.__setattr__",
        "hop.call_torchbind",
        "hop.flat_apply",
        "aten.save",
        "aten._dyn_quant_matmul_4bit",
        "aten.manual_seed",
        "aten._reshape_alias",
        "aten.ctc_loss",
        "aten.max_pool2d_with_indices_backward",
        "aten.resize_",
        "prims.resize",
    ],
)
def test_a_file_cannot_name_an_op_outside_the_list(name):
    with pytest.raises(OpError):
        lookup_op(name)


@pytest.mark.parametrize(
    "name",
    ["aten.remainder.int", "aten.remainder", "aten.mul.right_", "aten.add.str", "aten.sort.int", "aten.eq.device"],
)
def test_a_file_cannot_name_an_op_of_numbers_which_would_run_when_types_are_inferred(name):
    with pytest.raises(OpError, match="computes on numbers, not on tensors"):
        lookup_op(name)


@pytest.mark.parametrize("name", ["aten.remainder.Tensor", "aten.full", "aten.sym_size.int", "aten._assert_scalar"])
def test_ops_of_exported_programs_that_take_or_give_numbers_are_accepted(name):
    assert lookup_op(name).name == name


def test_a_text_that_opens_a_file_is_refused_and_writes_nothing(tmp_path):
    target = tmp_path / "written"
    text = f'graph @main {{ %x: f32[1] = aten.from_file() {{filename="{target}", shared=true, size=1}} return %x }}'
    with pytest.raises(ParseError, match="from_file"):
        parse_graph(text)
    assert not target.exists()


def test_types_of_a_huge_factory_are_inferred_without_its_memory():
    (found,) = infer_types(lookup_op("aten.ones"), {}, {"size": (10**13,)}, {})
    assert found.shape == (10**13,)


def test_a_custom_op_of_the_process_is_found():
    with torch.library._scoped_library("refusedops", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        assert lookup_op("refusedops.twice").name == "refusedops.twice"


def test_a_treespec_imports_no_module():
    code = (
        "import json, sys, torch\n"
        "from graphpress.ir.text.pytrees import TreeSpecError, load_spec\n"
        "enum = json.dumps([{'__enum__': True, 'fqn': 'antigravity:x', 'name': 'y'}])\n"
        "texts = [('python:torch:_inductor.x', 'null'), ('builtins.dict', enum)]\n"
        "before = set(sys.modules)\n"
        "for name, context in texts:\n"
        "    try: load_spec(json.dumps([1, {'type': name, 'context': context, 'children_spec': []}]))\n"
        "    except TreeSpecError: pass\n"
        "    else: raise AssertionError(name)\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr[-500:]


def test_a_value_that_is_called_as_a_lazy_module_of_torch_imports_nothing():
    code = (
        "import sys, torch\n"
        "from graphpress.ir.text.parser import ParseError, parse_graph\n"
        "text = 'graph @g { %y: f32[2] = aten.ones() {size=[2], layout=torch.NAME} return %y }'\n"
        "parse_graph(text.replace('NAME', 'strided'))\n"
        "before = set(sys.modules)\n"
        "for name in ('_inductor', '_dynamo', '_export', 'onnx'):\n"
        "    try: parse_graph(text.replace('NAME', name))\n"
        "    except ParseError: pass\n"
        "    else: raise AssertionError(name)\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout[-500:] + done.stderr[-500:]


def test_a_treespec_that_names_no_class_is_refused():
    with pytest.raises(TreeSpecError):
        load_spec('[1, {"type": "python:torch:_inductor", "context": "null", "children_spec": []}]')


def _dispatched(namespace):
    names = (name.partition("::") for name in torch._C._dispatch_get_all_op_names())
    return {name.partition(".")[0] for found, _, name in names if found == namespace}


def test_every_aten_op_of_the_dispatcher_is_accepted_or_known_to_be_refused():
    known = set((Path(__file__).parent / "refused_aten_ops.txt").read_text(encoding="utf-8").split())
    refused = {name for name in _dispatched("aten") if refusal(f"aten.{name}.none")}
    assert refused - known == set(), "ops of a newer torch: list each as accepted or as refused"
    assert {name for name in known if not refusal(f"aten.{name}.none")} == set()
    assert len(refused) > 500


def test_no_accepted_op_of_torch_takes_a_file_or_a_storage():
    taking = []
    for schema in torch._C._jit_get_all_schemas():
        name = schema.name.replace("::", ".")
        types = [str(argument.type) for argument in schema.arguments]
        names = [argument.name for argument in schema.arguments]
        if refusal(name) is None and (
            {"Storage", "Stream"} & set(types) or any("file" in each or "ptr" in each for each in names)
        ):
            taking.append(name)
    assert taking == []


def test_the_namespaces_of_torch_alone_are_listed():
    code = (
        "import torch, torch.distributed, torch.ao.quantization.fx._decomposed, torch._inductor.lowering\n"
        "print(*{name.partition('::')[0] for name in torch._C._dispatch_get_all_op_names()})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    accepted = {name for name in done.stdout.split() if refusal(f"{name}.x") is None}
    assert accepted <= {"quantized_decomposed"}
