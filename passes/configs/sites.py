"""Where specs go: ops, and the modules they run in."""

from __future__ import annotations

from typing import Self

import attrs

from graphpress.passes.configs.matching import qualified_name


@attrs.frozen(cache_hash=True)
class ModuleScope:
    """A module that an op runs in.

    Attributes:
        path: its name in the model, as `named_modules` gives it; the model itself is ``""``.
        type_names: fully qualified names of its class; several where one class stands for another.
    """

    path: str
    type_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: str, *types: type | str) -> Self:
        """The scope of a module by its path and class."""
        return cls(path, tuple(qualified_name(kind) if isinstance(kind, type) else kind for kind in types))


ModuleStack = tuple[ModuleScope, ...]


@attrs.frozen(cache_hash=True)
class OpSite:
    """An op of a model, as configs see it.

    Attributes:
        name: its name: of the node (``linear_1``), or in eager mode ``module.path.op``.
        op_type: such as ``conv2d``; ``aten.conv2d.default`` means the same.
        module_stack: the modules it runs in, the model itself first.
        inputs: names of its operands, by position; None where unknown.
        outputs: names of its results, by position; None where unknown.
        states: names of its parameters and buffers within their module; None where unknown.
    """

    name: str
    op_type: str
    module_stack: ModuleStack = ()
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    states: tuple[str, ...] | None = None
