"""A program of a few bytes that stands for gigabytes is read without computing them."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphpress.backends import coreml

coremltools = pytest.importorskip("coremltools")


def _output(operation: Any, name: str, kind: int, shape: tuple[int, ...]) -> Any:
    made = operation.outputs.add(name=name)
    made.type.tensorType.dataType, made.type.tensorType.rank = kind, len(shape)
    for size in shape:
        made.type.tensorType.dimensions.add().constant.size = size
    return made.type


def _operation(block: Any, type: str, name: str, kind: int, dims: tuple[int, ...], **operands: str) -> Any:
    from coremltools.proto import MIL_pb2

    made = MIL_pb2.Operation(type=type)
    _output(made, name, kind, dims)
    made.attributes["name"].type.tensorType.dataType = MIL_pb2.STRING
    made.attributes["name"].immediateValue.tensor.strings.values.append(name)
    for key, value in operands.items():
        made.inputs[key].arguments.add(name=value)
    block.operations.insert(0, made)
    return block.operations[0]


def _constant(block: Any, name: str, values: list[int] | float) -> None:
    from coremltools.proto import MIL_pb2

    is_shape = isinstance(values, list)
    made = _operation(
        block, "const", name, MIL_pb2.INT32 if is_shape else MIL_pb2.FLOAT32, (len(values),) if is_shape else ()
    )
    held = made.attributes["val"]
    held.type.CopyFrom(made.outputs[0].type)
    tensor = held.immediateValue.tensor
    if is_shape:
        tensor.ints.values.extend(values)
    else:
        tensor.floats.values.append(values)


def _package_with_fill(path: Path, size: int) -> None:
    from coremltools.proto import MIL_pb2

    coreml.convert(nn.Linear(4, 4).eval(), path, (torch.ones(1, 4),))
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = coremltools.utils.load_spec(str(file))
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    _operation(block, "fill", "filled", MIL_pb2.FLOAT32, (size, size), shape="shape", value="value")
    _constant(block, "shape", [size, size])
    _constant(block, "value", 1.5)
    file.write_bytes(spec.SerializeToString())
    manifest = json.loads((path / "Manifest.json").read_text())
    for entry in manifest["itemInfoEntries"].values():
        entry["description"] = entry["description"].partition(", sha256")[0]
    (path / "Manifest.json").write_text(json.dumps(manifest))


def test_a_huge_tensor_that_a_program_fills_is_not_computed_when_it_is_read(tmp_path):
    _package_with_fill(tmp_path / "m.mlpackage", 20_000)
    coreml.read(tmp_path / "m.mlpackage")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = coreml.from_package(tmp_path / "m.mlpackage")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB
    assert [str(each.value.type) for each in graph.inputs] == ["f32[1, 4]"]


def test_values_are_computed_up_to_a_bound_for_all_together_and_without_bound_outside_of_a_reader():
    from coremltools.converters.mil import Builder as mb

    from graphpress.backends.coreml.inference_bound import bounded_inference

    def known() -> list[bool]:
        found = []

        @mb.program(input_specs=[mb.TensorSpec((1,))])
        def program(x: Any) -> Any:
            filled = [mb.fill(shape=[side, 1024], value=1.5) for side in (1024, 2048, 2048, 4)]
            found.extend(each.val is not None for each in filled)
            return mb.relu(x=x)

        return found

    with bounded_inference(0):
        assert known() == [True, True, False, False]
    with bounded_inference(2**20):
        assert known() == [True] * 4
    assert known() == [True] * 4
