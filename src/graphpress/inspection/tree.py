"""Build the tree of a model's modules from the ops that were found in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from graphpress.inspection.types import BoundaryEdge, ModelSummary, ModuleContext, ModuleInfo, OpInfo
from graphpress.passes.config import ExecutionMode, ModuleScope

Key = tuple[int, int | None]
"""A value: the ``id`` of the `OpInfo` that makes it, and the index of the result."""


@frozen(eq=False)
class FoundOps:
    """The ops of a model.

    Attributes:
        ops: every op, in execution order.
        wanted: those that the summary lists.
        entering: by path of the module, the values that enter it, in the order of ``module_input_spec``.
        leaving: likewise for the values that leave it.
    """

    ops: Sequence[OpInfo]
    wanted: Sequence[OpInfo]
    entering: Mapping[str, Sequence[Key]]
    leaving: Mapping[str, Sequence[Key]]


def context_of(scope: ModuleScope) -> ModuleContext:
    """Return a scope of the config as the summary shows it."""
    return ModuleContext(scope.path, scope.type_names[0] if scope.type_names else "", scope.type_names)


def summary_of(found: FoundOps, modules: Iterable[ModuleScope], mode: ExecutionMode) -> ModelSummary:
    """Build the tree of `modules` and of the modules that ops name, with every op in its innermost module."""
    scopes = [context_of(scope) for scope in modules]
    root = ModuleInfo("", next((scope.module_type for scope in scopes if not scope.module_name), ""))
    for scope in scopes:
        _place(root, scope)
    for op in found.wanted:
        module = root
        for scope in op.module_stack:
            module = _place(root, scope)
        module.ops.append(op)
    for path, module in root.named_modules():
        _set_boundary(module, path, found)
    return ModelSummary(root, mode)


def _set_boundary(module: ModuleInfo, path: str, found: FoundOps) -> None:
    inside = [op for op in found.wanted if any(scope.module_name == path for scope in op.module_stack)]
    entering = {key: index for index, key in enumerate(found.entering.get(path, ()))}
    for op in inside:
        for position, edge in enumerate(op.inputs):
            index = entering.get((id(edge.op), edge.output_idx))
            if index is not None:
                module.input_ops.setdefault(index, []).append(BoundaryEdge(op, position))
    by_id = {id(op): op for op in inside}
    for index, (maker, result) in enumerate(found.leaving.get(path, ())):
        if maker in by_id and result is not None:
            module.output_ops[index] = BoundaryEdge(by_id[maker], result)


def _place(root: ModuleInfo, scope: ModuleContext) -> ModuleInfo:
    module, path = root, ""
    for part in scope.module_name.split(".") if scope.module_name else ():
        path = f"{path}.{part}" if path else part
        module = module.child_modules.setdefault(path, ModuleInfo(path, ""))
    module.module_type = module.module_type or scope.module_type
    return module
