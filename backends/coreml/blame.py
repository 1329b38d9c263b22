"""The first operator of a model whose output differs in a package, by the values of its imported program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphpress.backends import blame as blaming
from graphpress.backends import exporting
from graphpress.backends.blame import BlameReport
from graphpress.backends.complexes import with_real_tensors
from graphpress.backends.coreml.check import evaluate
from graphpress.backends.coreml.decompositions import decompose
from graphpress.backends.norms import with_folded_norms
from graphpress.ir.graph import Node


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
    args, kwargs = exporting.arguments(inputs)
    exported = model if isinstance(model, ExportedProgram) else exporting.export(model, inputs)
    exported = with_folded_norms(with_real_tensors(exported))
    names = blaming.origins(decompose(exported))
    stored: dict[str, torch.Tensor] = {}

    def note(node: Node, results: Sequence[Any]) -> None:
        for value, result in zip(node.results, results, strict=True):
            if value.name in names and isinstance(result, torch.Tensor):
                stored[names[value.name]] = result.detach().clone()

    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    evaluate(path, leaves, note)
    return blaming.compare(Path(path), exported, (args, kwargs), stored)
