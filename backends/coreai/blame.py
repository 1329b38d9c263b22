"""The first operator of a model whose output differs in an asset, by its intermediate values in the runtime."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphpress.backends import blame as blaming
from graphpress.backends import exporting
from graphpress.backends.comparison import BlameReport
from graphpress.backends.coreai import ops
from graphpress.backends.coreai.asset import open_asset
from graphpress.backends.coreai.program import decompose, exported, prepared
from graphpress.backends.coreai.runtime import load, run_flat
from graphpress.backends.errors import AssetError

_TENSOR = re.compile(r"tensor<(?:[\d?]+x)*(\w+)[^x]*>")
_SOURCE = re.compile(r'identifiers = \["([^"]+)"\], name = "torch"')


def blame(
    path: str | PathLike[str],
    model: torch.nn.Module | ExportedProgram,
    inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any],
) -> BlameReport:
    """Find the first operator of `model` whose output differs in the asset at `path`, run on `inputs`.

    The asset's own program gets the results of its operators as further outputs and is executed by the runtime. The
    locations that the converter stores pair them with the operators of the model.

    Args:
        path: a saved asset.
        model: the module, exported in eval mode, or the exported program that was converted.
        inputs: one tensor, a tuple of the arguments, or a dict by name.

    Raises:
        AssetError, ModelInputError, ExecutionError: if the asset cannot be loaded or run.
        ConversionError: if torch cannot export the model.
    """
    ops.register()
    args, kwargs = exporting.arguments(inputs, model)
    program = prepared(exported(model, inputs, None))
    decomposed = decompose(program)
    names = blaming.origins(program, decomposed)
    with tempfile.TemporaryDirectory() as folder:
        probed = Path(folder) / "probed.aimodel"
        sources = _save_probed(path, probed, names, decomposed)
        with load(probed) as loaded:
            outputs = run_flat(loaded, args, kwargs)
    count = len(outputs) - len(sources)
    stored = dict(zip(sources, outputs[count:], strict=True))
    return blaming.compare(Path(path), program, (args, kwargs), stored, outputs[:count], ops.quantize)


def _save_probed(
    path: str | PathLike[str], target: Path, names: Mapping[tuple[str, int], str], decomposed: ExportedProgram
) -> list[str]:
    """Save the asset with the results of its operators as further outputs.

    Returns:
        The names of the operators of the exported program, in the order of the outputs.
    """
    authoring, ir = ops.require("coreai.authoring.asset"), ops.require("coreai._compiler.ir")
    program = authoring.AIProgram._from_mlir_module(
        authoring.clone_module(module=open_asset(path).program._module._mlir_module)
    )
    module = program._module._mlir_module
    graphs = [each for each in module.operation.regions[0].blocks[0].operations if "priv" not in each.attributes]
    main = next((each for each in graphs if each.attributes["sym_name"].value == "main"), None)
    if main is None:
        raise AssetError(f"{path} has no function 'main'")
    block = main.regions[0].blocks[0]
    results: dict[str, list[Any]] = {}
    for operation in block.operations:
        found = _SOURCE.search(str(operation.location))
        if found and operation.name != "coreai.constant":
            results.setdefault(found[1], []).extend(operation.results)
    values: dict[str, Any] = {}
    for node in decomposed.graph.nodes:
        for at, result in _last_of_each(node.meta.get("val"), results.get(node.name, [])).items():
            if (node.name, at) in names:
                values[names[node.name, at]] = result
    returned = [*block.operations][-1]
    with module.context, ir.Location.unknown():
        kind = main.attributes["function_type"].value
        added = list(values.values())
        types = [*kind.results, *(each.type for each in added)]
        main.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(list(kind.inputs), types))
        labels = [ir.DictAttr.get({"coreai.name": ir.StringAttr.get(f"probe_{at}")}) for at in range(len(added))]
        main.attributes["res_attrs"] = ir.ArrayAttr.get([*main.attributes["res_attrs"], *labels])
        with ir.InsertionPoint(returned):
            ir.Operation.create(returned.name, operands=[*returned.operands, *added])
        returned.erase()
    program.save_asset(target)
    return list(values)


def _last_of_each(meant: Any, results: Sequence[Any]) -> dict[int, Any]:
    """Return the results of an operator by index, out of those of all operations that it became.

    A top-k is a sort, an argsort and a slice of each; the last results of a result's kind, float or not, are the
    operator's.
    """
    kinds = [each.is_floating_point() for each in meant] if isinstance(meant, tuple | list) else []
    kinds = [meant.is_floating_point()] if isinstance(meant, torch.Tensor) else kinds
    found: dict[int, Any] = {}
    for kind in (True, False):
        places = [at for at, each in enumerate(kinds) if each is kind]
        alike = [each for each in results if (_is_float(str(each.type)) is kind)]
        if len(alike) >= len(places):
            found |= dict(zip(places, alike[len(alike) - len(places) :], strict=True))
    return found


def _is_float(kind: str) -> bool | None:
    """Return True if a type is a tensor of floats, False for another tensor, None for other types."""
    found = _TENSOR.fullmatch(kind)
    return None if found is None else found[1].startswith(("f", "bf"))
