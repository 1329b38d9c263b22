"""Looking into a model before configuring its compression."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphpress.compressor import ArgumentTypeError, Compressor, mode_restored
from graphpress.eager import OpCall, module_scopes
from graphpress.inspection.eager_ops import eager_ops
from graphpress.inspection.formatting import format_tree
from graphpress.inspection.graph_ops import graph_ops
from graphpress.inspection.summary import ModelSummary, OpInfo, summary_of
from graphpress.ir.graph import Node
from graphpress.passes.analysis.value_preserving import only_moves_values
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.configs import ExecutionMode, InvalidExecutionModeError
from graphpress.passes.configs.matching import NamePattern, TypePattern, canonical_op_type, qualified_name
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.fusion import FusionGroup, fusion_patterns
from graphpress.quantization import Quantizer
from graphpress.quantization.capture import capture, flat_arguments


class ModelInspector:
    """The modules and ops of a model, by the names that configs address them with.

    Args:
        model: any module; it stays as it is.
        example_inputs: a tuple of its positional arguments, to capture or run it with, in eval mode.
        execution_mode: ``"graph"``: ops are nodes of the captured graph, such as ``linear_1``; ``"eager"``: calls of
            torch functions as the model runs, such as ``head.linear_1``.
        compressor: a compressor, or its class: only ops that it can compress are listed. Those that palettize or prune
            address ops as in eager mode, so for them ops are listed so whatever the mode.

    Raises:
        ArgumentTypeError: when `model` is no module, or `compressor` no compressor.
        InvalidExecutionModeError: for a mode that does not exist.
        ExportError: in graph mode, when torch cannot capture the model.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        execution_mode: ExecutionMode | str = ExecutionMode.GRAPH,
        compressor: Compressor[Any] | type[Compressor[Any]] | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"ModelInspector takes a torch.nn.Module, not a {type(model).__name__}")
        if execution_mode not in tuple(ExecutionMode):
            accepted = ", ".join(repr(mode.value) for mode in ExecutionMode)
            raise InvalidExecutionModeError(f"execution_mode is {execution_mode!r}; accepted: {accepted}")
        kind = compressor if isinstance(compressor, type) else None if compressor is None else type(compressor)
        if kind is not None and not issubclass(kind, Compressor):
            raise ArgumentTypeError(f"compressor is a {kind.__name__}; accepted: a compressor, its class, or None")
        is_of_weights = kind is not None and not issubclass(kind, Quantizer)
        arguments = flat_arguments(example_inputs)
        if execution_mode == ExecutionMode.GRAPH and not is_of_weights:
            ops = _captured(model, arguments, kind is not None)
        else:
            ops = _run(model, arguments, kind)
        self._summary = summary_of(ops, module_scopes(model))

    @property
    def summary(self) -> ModelSummary:
        """The tree of modules, each with its ops."""
        return self._summary

    def format_summary(self, colorize: bool = True) -> str:
        """The tree as text, a line for each module and op; with ``colorize=False`` without escape sequences."""
        return format_tree(self._summary, colorize)

    def get_matched_ops_for_op_type(self, op_type: str) -> tuple[OpInfo, ...]:
        """The ops that an entry `op_type` of an ``op_type_config`` is about."""
        wanted = canonical_op_type(op_type)
        return tuple(op for op in self._summary.ops if canonical_op_type(op.op_type) == wanted)

    def get_matched_ops_for_op_name(self, op_name: str) -> tuple[OpInfo, ...]:
        """The ops that an entry `op_name` of an ``op_name_config`` is about: a name, or a regular expression that must
        match all of one.
        """
        pattern = NamePattern(op_name)
        return tuple(op for op in self._summary.ops if pattern.matches(op.op_name))

    def get_matched_ops_for_module_name(self, module_name: str) -> tuple[OpInfo, ...]:
        """The ops that an entry `module_name` of ``module_name_configs`` is about: those in the modules of that path,
        or of paths that the regular expression matches, and below.
        """
        pattern = NamePattern(module_name)
        return tuple(op for op in self._summary.ops if any(pattern.matches(scope.path) for scope in op.module_stack))

    def get_matched_ops_for_module_type(self, module_type: type[nn.Module] | str) -> tuple[OpInfo, ...]:
        """The ops that an entry `module_type` of ``module_type_configs`` is about: those in modules of that class, and
        below.
        """
        pattern = TypePattern(module_type if isinstance(module_type, str) else qualified_name(module_type))
        stacks = ((op, op.module_stack) for op in self._summary.ops)
        return tuple(op for op, stack in stacks if any(pattern.matches(scope.type_names) for scope in stack))


def _captured(model: nn.Module, arguments: tuple[Any, ...], is_for_quantizer: bool) -> list[OpInfo]:
    pipeline = Pipeline(Canonicalize(), *([AnnotateFusion()] if is_for_quantizer else []))
    graph = Runner().run(capture(model, arguments), pipeline, in_place=True).graph

    def wanted(node: Node) -> bool:
        return not is_for_quantizer or node.annotation(FusionGroup) is not None or only_moves_values(node)

    return graph_ops(graph, wanted)


def _run(model: nn.Module, arguments: tuple[Any, ...], kind: type[Compressor[Any]] | None) -> list[OpInfo]:
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
            model(*arguments)

    return eager_ops(model, run, wanted)
