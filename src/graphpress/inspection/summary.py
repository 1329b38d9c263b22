"""The tree of a model's modules and their ops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import define, field, frozen

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.config import ModuleScope, ModuleStack


class NoSuchModuleError(GraphpressError, AttributeError):
    """The model has no module at this path."""


@frozen
class OpInfo:
    """An op as configs address it.

    Attributes:
        op_name: for ``op_name_config``: ``linear_1`` in graph mode, ``module.path.linear_1`` in eager mode.
        op_type: for ``op_type_config``, such as ``linear``.
        module_stack: the modules it runs in, from the model inwards, each with its path and type names.
        inputs: names of its inputs, in order: ops, inputs of the model, parameters and buffers.
        outputs: names of the ops that read its results, and ``output`` if the model returns one.
        source: file and line of the call in the user's code, or empty if unknown.
    """

    op_name: str
    op_type: str
    module_stack: ModuleStack
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    source: str = ""

    @property
    def module_name(self) -> str:
        """The path of the innermost module."""
        return self.module_stack[-1].path if self.module_stack else ""


@define(eq=False)
class ModuleInfo:
    """A module with its ops and children, traversed like a `torch.nn.Module`.

    Attributes:
        name: its path in the model, ``""`` for the model itself.
        type_names: fully qualified names of its class.
        ops: the ops that run in it but not in its children, in execution order.
    """

    name: str
    type_names: tuple[str, ...]
    _ops: list[OpInfo] = field(factory=list, init=False)
    _children: dict[str, ModuleInfo] = field(factory=dict, init=False)

    @property
    def type_name(self) -> str:
        """The class name, without its module."""
        return self.type_names[0].rpartition(".")[2] if self.type_names else ""

    @property
    def ops(self) -> tuple[OpInfo, ...]:
        """See the class."""
        return tuple(self._ops)

    def all_ops(self) -> tuple[OpInfo, ...]:
        """The ops of this module and of all modules below it, module by module."""
        return tuple(op for module in self.modules() for op in module.ops)

    def children(self) -> Iterator[ModuleInfo]:
        """Yield the direct children."""
        yield from self._children.values()

    def named_children(self) -> Iterator[tuple[str, ModuleInfo]]:
        """Yield the direct children, each with its name in this module."""
        yield from self._children.items()

    def modules(self) -> Iterator[ModuleInfo]:
        """Yield this module and its descendants, in the order of registration."""
        yield self
        for child in self._children.values():
            yield from child.modules()

    def named_modules(self) -> Iterator[tuple[str, ModuleInfo]]:
        """Yield this module and its descendants, each with its path in the model."""
        for module in self.modules():
            yield module.name, module

    def get_submodule(self, target: str) -> ModuleInfo:
        """Return the module at the path `target`, relative to this one; ``""`` is this one.

        Raises:
            NoSuchModuleError: if there is none; the message suggests similar paths.
        """
        found = self
        for part in target.split(".") if target else ():
            if part not in found._children:
                start = f"{self.name}." if self.name else ""
                paths = [name.removeprefix(start) for name, _ in self.named_modules()]
                where = f"in {self.name!r}" if self.name else "in the model"
                raise NoSuchModuleError(f"there is no module {target!r} {where}{suggestion(target, paths)}")
            found = found._children[part]
        return found


@frozen(eq=False)
class ModelSummary:
    """The summary of a model, with the module tree as `model`."""

    model: ModuleInfo

    @property
    def ops(self) -> tuple[OpInfo, ...]:
        """All ops, module by module."""
        return self.model.all_ops()


def summary_of(ops: Iterable[OpInfo], modules: Iterable[ModuleScope]) -> ModelSummary:
    """Build the tree of `modules` and of the modules that ops name, with every op in its innermost module."""
    scopes = list(modules)
    root = ModuleInfo("", next((scope.type_names for scope in scopes if not scope.path), ()))
    for scope in scopes:
        _place(root, scope)
    for op in ops:
        for scope in op.module_stack:
            module = _place(root, scope)
        (module if op.module_stack else root)._ops.append(op)
    return ModelSummary(root)


def _place(root: ModuleInfo, scope: ModuleScope) -> ModuleInfo:
    module, path = root, ""
    for part in scope.path.split(".") if scope.path else ():
        path = f"{path}.{part}" if path else part
        if part not in module._children:
            module._children[part] = ModuleInfo(path, ())
        module = module._children[part]
    module.type_names = module.type_names or scope.type_names
    return module
