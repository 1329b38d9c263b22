"""Names of modules and of the ops they call, as configs use them."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field
from torch import nn

from graphpress.eager.call_sites import CallSite
from graphpress.ir.torch.emitted_module import captured_class
from graphpress.modules.forms import plain_type
from graphpress.passes.config import ModuleScope, ModuleStack
from graphpress.passes.config.entries import qualified_name


@define(eq=False)
class ModuleCalls:
    """The names of the ops that a module calls, by call site.

    The first op of a type is named ``module.path.op``, the next one in the same module ``module.path.op_1``. Sites are
    numbered in the order in which they are first executed, and keep their names. A site that is executed repeatedly in
    one call of the module, as in a loop, is a new op each time; in the next call of the module it is the same op.

    Attributes:
        path: the module's path.
        stack: the model and every module on the path to this one.
    """

    path: str
    stack: ModuleStack
    _names: dict[tuple[str, CallSite, int], str] = field(factory=dict)
    _counts: dict[str, int] = field(factory=dict)

    def name(self, op_type: str, site: CallSite, repeat: int) -> str:
        """Return the name, within the module, of the op at `site` in its `repeat`-th execution (from 0)."""
        key = (op_type, site, repeat)
        known = self._names.get(key)
        if known is None:
            count = self._counts.get(op_type, 0)
            self._counts[op_type] = count + 1
            known = self._names[key] = op_type if not count else f"{op_type}_{count}"
        return known

    def qualified(self, name: str) -> str:
        """Return the qualified name of an op, parameter or submodule of this module."""
        return f"{self.path}.{name}" if self.path else name


def module_calls(model: nn.Module) -> dict[nn.Module, ModuleCalls]:
    """Create a `ModuleCalls` for every module of `model`; a shared module uses its first path."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[nn.Module, ModuleCalls] = {}
    for path, module in modules.items():
        if module not in found:
            found[module] = ModuleCalls(path, module_stack(path, modules))
    return found


def module_stack(path: str, modules: Mapping[str, nn.Module]) -> ModuleStack:
    """Return the model and every module on the way to `path`; `modules` maps paths to modules."""
    parts = path.split(".") if path else []
    paths = ["", *(".".join(parts[: end + 1]) for end in range(len(parts)))]
    return tuple(module_scope(each, modules[each]) for each in paths if each in modules)


def module_scopes(model: nn.Module) -> list[ModuleScope]:
    """Return the scope of every module of `model`, as configs address it."""
    return [module_scope(path, module) for path, module in model.named_modules(remove_duplicate=False)]


def module_scope(path: str, module: nn.Module) -> ModuleScope:
    """Return the path and class of a module, as configs address it; private torch subclasses get their public class."""
    known = captured_class(module)
    if known is not None:
        return ModuleScope(path, (known,))
    cls = plain_type(module)
    names = [qualified_name(cls)]
    if cls.__module__.startswith("torch.nn."):  # torch has private subclasses of public layers
        public = (base for base in cls.__mro__[1:] if base.__module__.startswith("torch.nn.modules."))
        names += [qualified_name(base) for base in public if base is not nn.Module]
    return ModuleScope(path, tuple(names))
