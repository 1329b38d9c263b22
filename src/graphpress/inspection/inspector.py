"""Inspection of a model before its compression is configured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from graphpress.compressor import ArgumentTypeError, Compressor, mode_restored
from graphpress.eager import OpCall, module_scopes
from graphpress.inspection.ops import eager_ops, graph_ops
from graphpress.inspection.tree import FoundOps, summary_of
from graphpress.inspection.types import ModelSummary, ModuleInfo, OpInfo
from graphpress.ir.graph import Node
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.export_errors import ExportError
from graphpress.passes.analysis.fusion import FusionGroup, fusion_patterns
from graphpress.passes.analysis.value_preserving import only_moves_values
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.config import ExecutionMode, InvalidExecutionModeError
from graphpress.passes.config.entries import NamePattern, TypePattern, canonical_op_type, qualified_name
from graphpress.passes.framework import Pipeline, Runner
from graphpress.programs import Model, arguments_of, module_of
from graphpress.quantization import Quantizer
from graphpress.quantization.capture import capture

_BOLD, _DIM, _CYAN, _GREEN, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[32m", "\x1b[0m"


def format_tree(summary: ModelSummary, colorize: bool) -> str:
    """Format modules with their types, and the ops of each: name, type, inputs, source."""

    def paint(text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if colorize and text else text

    def op_line(op: OpInfo) -> str:
        kind = op.op_type or ""
        type_ = "" if op.op_name.rpartition(".")[2] == kind else f" {paint(kind, _CYAN)}"
        reads = paint(f"({', '.join(edge.op.op_name for edge in op.inputs)})", _DIM)
        source = f"  {paint(op.source, _DIM)}" if op.source else ""
        return f"{paint(op.op_name, _GREEN)}{type_}{reads}{source}"

    def lines(module: ModuleInfo, indent: str) -> Iterator[str]:
        entries: list[tuple[str, ModuleInfo | None]] = [(op_line(op), None) for op in module.ops]
        for name, child in module.named_children():
            entries.append((f"{paint(name, _BOLD)} {paint(child.type_name, _DIM)}".rstrip(), child))
        for place, (text, below) in enumerate(entries):
            is_last = place == len(entries) - 1
            yield f"{indent}{'└─ ' if is_last else '├─ '}{text}"
            if below is not None:
                yield from lines(below, indent + ("   " if is_last else "│  "))

    root = summary.model
    count = len(root.all_ops())
    head = f"{paint(root.type_name or 'model', _BOLD)}: {count} op{'' if count == 1 else 's'}"
    return "\n".join([head, *lines(root, "")])


class ModelInspector:
    """Lists the modules and ops of a model by the names that configs use.

    Args:
        model: a module, or an exported program; it is not changed.
        example_inputs: its arguments as for `Quantizer.prepare`, with which it is captured or run in eval mode. An
            exported program has its own by default.
        execution_mode: ``"graph"`` lists nodes of the captured graph, such as ``linear_1``; ``"eager"`` lists calls of
            torch functions in a run, such as ``head.linear_1``.
        compressor: a compressor or its class; only ops that it can compress are listed. Palettizers and pruners address
            ops as in eager mode, and are listed as such in either mode.
        dynamic_shapes: as for `torch.export.export`, in graph mode.
        export_with_no_grad: capture under ``torch.no_grad()``, in graph mode.

    Raises:
        ArgumentTypeError: if `model` is neither, or `compressor` not a compressor.
        InvalidExecutionModeError: for an unknown mode.
        ExportError: if torch cannot capture the model in graph mode.
    """

    def __init__(
        self,
        model: Model,
        example_inputs: Any = None,
        execution_mode: ExecutionMode | str = ExecutionMode.GRAPH,
        compressor: Compressor[Any] | type[Compressor[Any]] | None = None,
        dynamic_shapes: Any = None,
        export_with_no_grad: bool = True,
    ):
        if not isinstance(model, nn.Module | ExportedProgram):
            raise ArgumentTypeError(
                f"ModelInspector takes a torch.nn.Module or an ExportedProgram, not a {type(model).__name__}"
            )
        try:
            mode = ExecutionMode(execution_mode)
        except ValueError:
            accepted = ", ".join(repr(mode.value) for mode in ExecutionMode)
            raise InvalidExecutionModeError(f"execution_mode is {execution_mode!r}; accepted: {accepted}") from None
        kind = compressor if isinstance(compressor, type) else None if compressor is None else type(compressor)
        if kind is not None and not issubclass(kind, Compressor):
            raise ArgumentTypeError(f"compressor is a {kind.__name__}; accepted: a compressor, its class, or None")
        is_of_weights = kind is not None and not issubclass(kind, Quantizer)
        module = module_of(model) if isinstance(model, ExportedProgram) else model
        if mode is ExecutionMode.GRAPH and not is_of_weights:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not export_with_no_grad):
                found = _captured(model, example_inputs, dynamic_shapes, kind is not None)
        elif isinstance(model, ExportedProgram):
            mode, found = ExecutionMode.EAGER, _run(module, arguments_of(model, example_inputs), kind)
        else:
            mode, found = ExecutionMode.EAGER, _run(module, Arguments.of(example_inputs), kind)
        self._summary = summary_of(found, module_scopes(module), mode)

    @property
    def summary(self) -> ModelSummary:
        """Return the tree of modules, each with its ops."""
        return self._summary

    def format_summary(self, colorize: bool = True) -> str:
        """Format the tree as text, a line per module and op; ``colorize=False`` omits escape sequences."""
        return format_tree(self._summary, colorize)

    def get_matched_ops_for_op_type(self, op_type: str) -> tuple[OpInfo, ...]:
        """Return the ops that an entry `op_type` of an ``op_type_config`` matches."""
        _check_name(op_type, "an op type")
        wanted = canonical_op_type(op_type)
        return tuple(op for op in self._summary.ops if canonical_op_type(op.op_type or "") == wanted)

    def get_matched_ops_for_op_name(self, pattern: str) -> tuple[OpInfo, ...]:
        """Return the ops that an entry `pattern` of an ``op_name_config`` matches.

        The entry is a name, or a regular expression that must match a whole name.
        """
        _check_name(pattern, "an op name")
        matched = NamePattern(pattern)
        return tuple(op for op in self._summary.ops if matched.matches(op.op_name))

    def get_matched_ops_for_module_name(self, module_name: str) -> tuple[OpInfo, ...]:
        """Return the ops that an entry `module_name` of ``module_name_configs`` matches.

        These are the ops in modules of that path, or of paths that the regular expression matches, and in their
        submodules.
        """
        _check_name(module_name, "a module name")
        pattern = NamePattern(module_name)
        return tuple(
            op for op in self._summary.ops if any(pattern.matches(scope.module_name) for scope in op.module_stack)
        )

    def get_matched_ops_for_module_type(self, module_type: type[nn.Module] | str) -> tuple[OpInfo, ...]:
        """Return the ops that an entry `module_type` of ``module_type_configs`` matches.

        These are the ops in modules of that class and in their submodules.
        """
        if not isinstance(module_type, type):
            _check_name(module_type, "a module type")
        pattern = TypePattern(module_type if isinstance(module_type, str) else qualified_name(module_type))
        stacks = ((op, op.module_stack) for op in self._summary.ops)
        return tuple(op for op, stack in stacks if any(pattern.matches(scope.type_names) for scope in stack))


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"{what} is a str, not a {type(name).__name__}")


def _captured(model: Model, example_inputs: Any, dynamic_shapes: Any, is_for_quantizer: bool) -> FoundOps:
    pipeline = Pipeline(Canonicalize(), *([AnnotateFusion()] if is_for_quantizer else []))
    graph = Runner().run(capture(model, example_inputs, dynamic_shapes), pipeline, in_place=True).graph

    def wanted(node: Node) -> bool:
        return not is_for_quantizer or node.annotation(FusionGroup) is not None or only_moves_values(node)

    return graph_ops(graph, wanted)


def _run(model: nn.Module, arguments: Arguments, kind: type[Compressor[Any]] | None) -> FoundOps:
    fused = {family for pattern in fusion_patterns() for families in pattern.chain for family in families}

    def wanted(call: OpCall) -> bool:
        if kind is None:
            return True
        if issubclass(kind, Quantizer):
            return call.op_type in fused
        uses = (use for use in call.operands if use.states and use.is_view)
        return any(use.dtype.is_floating_point and len(use.shape) > 1 for use in uses)

    def run() -> None:
        with mode_restored(model), torch.no_grad():
            model.eval()
            arguments.run(model, type(model).__name__, ExportError)

    return eager_ops(model, run, wanted)
