"""Exported programs as models of the compressors.

A program has no Python code left: its shapes, static or dynamic, its mode and its signature are those of its export.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from graphpress.ir.graph import Graph
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.capture import from_exported_program
from graphpress.ir.torch.export_errors import ExportError
from graphpress.ir.torch.graph_module_writer import place_captured_modules, to_graph_module
from graphpress.ir.torch.program_writer import example_arguments

Model = nn.Module | ExportedProgram
"""A model that a compressor prepares."""


def graph_of(program: ExportedProgram) -> Graph:
    """Import a program that was exported in eval mode; the graph shares its tensors.

    Raises:
        ExportError: for a program exported in training mode, and if torch cannot functionalize it.
    """
    training = [node for node in program.graph.nodes if _is_training(node)]
    if training:
        names = ", ".join(node.name for node in training[:3])
        raise ExportError(
            f"the program was exported in training mode: {names} {'computes' if len(training) == 1 else 'compute'} as "
            "in training; export the model in eval mode, torch.export.export(model.eval(), ...)"
        )
    return from_exported_program(program)


def module_of(program: ExportedProgram, *, copy: bool = True) -> nn.Module:
    """Return a program as a module that configs address as the original one.

    Its tensors are copied when written to, or with ``copy=False`` those of the program.
    """
    graph = graph_of(program)
    module = to_graph_module(graph, copy_constants=copy)
    place_captured_modules(module, graph)
    return module.eval()


def arguments_of(program: ExportedProgram, example_inputs: Any) -> Arguments:
    """Return example arguments: those given, else the program's own, else zeros.

    Raises:
        ExportError: if the program has none and an input is not a tensor or number.
    """
    if example_inputs is not None:
        return Arguments.of(example_inputs)
    if program.example_inputs is not None:
        args, kwargs = program.example_inputs
        return Arguments(tuple(args), dict(kwargs))
    return example_arguments(from_exported_program(program))


def _is_training(node: fx.Node) -> bool:
    """Return True for an op that computes as in training, except norms without running statistics, which always do."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    bound = dict(zip((a.name for a in node.target._schema.arguments), node.args, strict=False)) | node.kwargs
    if "running_mean" in bound and bound["running_mean"] is None:
        return False
    return bound.get("train") is True or bound.get("training") is True
