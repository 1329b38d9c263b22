"""The first operator of a model whose output differs in a package, by the values of its imported program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends import blame as blaming
from graphpress.backends import exporting
from graphpress.backends.comparison import BlameReport, tensors_in
from graphpress.backends.coreai import ops
from graphpress.backends.coreai.program import exported
from graphpress.backends.coreml.decompositions import decompose
from graphpress.backends.coreml.evaluation import evaluate
from graphpress.backends.norms import with_folded_norms
from graphpress.ir.graph import Node

_SCALE = re.compile(r"(.+)_scale_\d+")


def blame(
    path: str | PathLike[str],
    model: torch.nn.Module | ExportedProgram,
    inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any],
) -> BlameReport:
    """Find the first operator of `model` whose output differs in the package at `path`, evaluated on `inputs`.

    The program is imported from the file and evaluated as by `check`. The names that coremltools gives to values pair
    them with the operators of the model.

    Args:
        path: a saved package.
        model: the module, exported in eval mode, or the exported program that was converted.
        inputs: one tensor, a tuple of the arguments, or a dict by name.

    Raises:
        AssetError: if there is no package, or it is damaged.
        InterpreterError: if it has an op that the IR cannot translate.
        ConversionError: if torch cannot export the model.
    """
    args, kwargs = exporting.arguments(inputs, model)
    program = with_folded_norms(exported(model, inputs, None))
    decomposed = decompose(program)
    operators = {node.name: node for node in decomposed.graph.nodes if node.op == "call_function"}
    names = {
        name if _is_tensor(operators[name]) else f"{name}_{at}": origin
        for (name, at), origin in blaming.origins(program, decomposed).items()
    }
    stored: dict[str, torch.Tensor] = {}

    def note(node: Node, results: Sequence[Any]) -> None:
        for value, result in zip(node.results, results, strict=True):
            name = _converted_name(node, value.name)
            if name not in names or not isinstance(result, torch.Tensor):
                continue
            is_shifted = result.dtype is torch.uint8 and operators[name].meta["val"].dtype is torch.int8
            if is_shifted:  # with a zero point that is 128 higher
                result = (result.to(torch.int16) - 128).to(torch.int8)
            stored[names[name]] = result.detach().clone()

    _, outputs = evaluate(path, tensors_in((args, kwargs)), note)
    return blaming.compare(Path(path), program, (args, kwargs), stored, outputs, ops.quantize)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _converted_name(node: Node, name: str) -> str:
    """Return the name that a value of a package had at first.

    coremltools makes codes with the zero point -128 unsigned, and then numbers their quantizers anew, from names that
    others have. The scale keeps the name of the quantizer that it was created for.
    """
    scale = node.operands.get("scale") if node.op.name in ("quant.quantize", "quant.dequantize") else None
    found = _SCALE.fullmatch(scale.constant.name) if scale is not None and scale.constant is not None else None
    return name if found is None else found[1]
