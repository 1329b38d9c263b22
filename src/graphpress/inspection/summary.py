"""A model as a tree of modules with their ops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import define, field, frozen

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.config import ModuleScope, ModuleStack


class NoSuchModuleError(GraphpressError, AttributeError):
    """A module path that is not in the model."""


@frozen
class OpInfo:
    """One op, as configs address it.

    Attributes:
        op_name: for ``op_name_config``: ``linear_1`` in graph mode, ``module.path.linear_1`` in eager mode.
        op_type: for ``op_type_config``: such as ``linear``.
        module_stack: the modules it runs in, the model itself first, each with its path and type names.
        inputs: what it reads, in order: names of ops, of the model's inputs, and of parameters and buffers.
        outputs: names of the ops that read its results; ``output`` where the model returns one.
        source: file and line of the call in the user's code; empty where it is not known.
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
    """A module, its ops and its children. It is walked as a `torch.nn.Module` is.

    Attributes:
        name: the path in the model; ``""`` is the model itself.
        type_names: fully qualified names of its class.
        ops: the ops that run in it and in none of its children, in execution order.
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
        """The modules right below."""
        yield from self._children.values()

    def named_children(self) -> Iterator[tuple[str, ModuleInfo]]:
        """The modules right below, each with its own name."""
        yield from self._children.items()

    def modules(self) -> Iterator[ModuleInfo]:
        """This module and all below, in the order of their registration."""
        yield self
        for child in self._children.values():
            yield from child.modules()

    def named_modules(self) -> Iterator[tuple[str, ModuleInfo]]:
        """This module and all below, each with its path in the model."""
        for module in self.modules():
            yield module.name, module

    def get_submodule(self, target: str) -> ModuleInfo:
        """The module at the path `target` from here; ``""`` is this one.

        Raises:
            NoSuchModuleError: with near paths.
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
    """All of a model: `model` is the tree."""

    model: ModuleInfo

    @property
    def ops(self) -> tuple[OpInfo, ...]:
        """All ops, module by module."""
        return self.model.all_ops()


def summary_of(ops: Iterable[OpInfo], modules: Iterable[ModuleScope]) -> ModelSummary:
    """The tree of `modules` and of those that ops name, with every op in its innermost module."""
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
