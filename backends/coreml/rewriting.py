"""Store weights of a Core ML program in fewer bits, in the program itself: no torch model is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphpress.backends.coreml import translations
from graphpress.backends.coreml.dependency import quiet, require
from graphpress.backends.coreml.package import load_program
from graphpress.backends.coreml.targets import Target
from graphpress.backends.errors import AssetError, ConversionError

Replace = Callable[[Tensor, str, str], "Callable[[Any], Any] | None"]
"""From a weight, the type of the op that reads it, and its name, to what makes its stored form with a builder."""

_READERS = {
    ("conv", "weight"): "conv{}d",
    ("conv_transpose", "weight"): "conv_transpose{}d",
    ("linear", "weight"): "linear",
    ("gather", "x"): "embedding",
    ("matmul", "y"): "linear",
    ("matmul", "x"): "linear",
}
_VERSIONS = {Target.iOS16: 7, Target.iOS17: 8, Target.iOS18: 9, Target.iOS26: 10}


def rewrite(model: Any, replace: Replace, threshold: int, lowest: Target) -> Any:
    """A coremltools model like `model`, whose weights of more than `threshold` elements are what `replace` makes.

    Args:
        model: a coremltools model of a program, or the path of a package. It is not changed.
        replace: see `Replace`; None leaves the weight.
        threshold: of elements.
        lowest: the oldest target that has the forms that `replace` makes. A model for an older one becomes one for it.

    Raises:
        AssetError: when there is no package, or it is damaged, or `model` is none.
        ConversionError: when coremltools refuses what was made.
    """
    coremltools = require()
    if isinstance(model, str | PathLike):
        load_program(model)  # says what is wrong with it
        with quiet():
            model = coremltools.models.MLModel(str(model), skip_model_load=True)
    if not isinstance(model, coremltools.models.MLModel) or model.get_spec().WhichOneof("Type") != "mlProgram":
        raise AssetError(
            f"a {type(model).__name__} is no Core ML program; expected an MLModel or the path of a package"
        )
    rewriting = _pass(replace, threshold)
    try:
        with quiet():
            return require("coremltools.models.utils")._apply_graph_pass(
                model, rewriting, spec_version=_VERSIONS[lowest], skip_model_load=True
            )
    except Exception as error:
        if isinstance(error, AssetError):
            raise
        raise ConversionError(f"coremltools cannot store the program: {type(error).__name__}: {error}") from error


def _pass(replace: Replace, threshold: int) -> Any:
    """A pass of coremltools over every function of a program."""
    base = require("coremltools.converters.mil.mil.passes.graph_pass").AbstractGraphPass

    class CompressWeights(base):  # type: ignore[misc, valid-type]
        def apply(self, program: Any) -> None:
            for function in program.functions.values():
                with function:
                    for op, op_type in list(_weights(function, threshold)):
                        _compress(op, op_type, replace)

    return CompressWeights()


def _weights(block: Any, threshold: int) -> Iterator[tuple[Any, str]]:
    """Constants that ops read as weights, with the type of the op as torch names it."""
    for op in list(block.operations):
        for inner in op.blocks:
            yield from _weights(inner, threshold)
        if op.op_type != "const" or op.outputs[0] in block.outputs:
            continue
        value = op.outputs[0].val
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim < 2 or value.size <= threshold:
            continue
        types = {_op_type(child, op.outputs[0]) for child in op.outputs[0].child_ops}
        if len(types) == 1 and None not in types:
            yield op, str(types.pop())


def _op_type(child: Any, var: Any) -> str | None:
    for (kind, operand), name in _READERS.items():
        if child.op_type == kind and child.inputs.get(operand) is var:
            return name.format(len(var.shape) - 2)
    return None


def _compress(op: Any, op_type: str, replace: Replace) -> None:
    var = op.outputs[0]
    make = replace(torch.from_numpy(np.array(var.val)), op_type, var.name)
    if make is None:
        return
    mb = require("coremltools.converters.mil.mil").Builder
    with mb.set_before_op(op):
        made = make(translations.builder(f"{var.name}_compressed"))
    block = op.enclosing_block
    block.replace_uses_of_var_after_op(anchor_op=op, old_var=var, new_var=made, no_check_var_types=True)
    block.remove_ops([op])
