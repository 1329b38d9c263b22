"""The tree of a model's modules and their ops."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field, frozen

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.config import ExecutionMode


class NoSuchModuleError(GraphpressError, AttributeError, KeyError):
    """The model has no module at this path."""

    def __str__(self) -> str:
        return str(self.args[0])


@frozen
class SourceFrame:
    """A line of the user's code.

    Attributes:
        filename: the file.
        lineno: the line, from 1.
        function_name: the function that it is in, or empty if unknown.
        code_context: the text of the line, or empty if unknown.
    """

    filename: str
    lineno: int
    function_name: str
    code_context: str


@frozen
class ModuleContext:
    """A module that an op runs in.

    Attributes:
        module_name: its path in the model, ``""`` for the model itself.
        module_type: the fully qualified name of its class.
        type_names: all names by which configs address its class; a private subclass of a torch layer has several.
    """

    module_name: str
    module_type: str
    type_names: tuple[str, ...] = ()


@define(eq=False)
class OpInfo:
    """An op as configs address it, or an input, output, parameter or buffer of the model, without modules.

    Attributes:
        op_name: for ``op_name_config``: ``linear_1`` in graph mode, ``module.path.linear_1`` in eager mode.
        op_type: for ``op_type_config``, such as ``linear``; None for what is not an op.
        module_stack: the modules it runs in, from the model inwards.
        source_frames: the calls in the user's code, outermost first; graph mode knows the innermost only.
        inputs: what it reads, in the order of ``op_input_spec``.
        outputs: by index of the result, what reads it.
        is_state: True for a parameter, buffer or constant.
    """

    op_name: str
    op_type: str | None
    module_stack: tuple[ModuleContext, ...] = ()
    source_frames: tuple[SourceFrame, ...] = ()
    inputs: tuple[InputEdge, ...] = field(default=(), repr=False)
    outputs: dict[int, tuple[OpInfo, ...]] = field(factory=dict, repr=False)
    is_state: bool = False

    @property
    def module_name(self) -> str:
        """The path of the innermost module."""
        return self.module_stack[-1].module_name if self.module_stack else ""

    @property
    def source(self) -> str:
        """File and line of the innermost call in the user's code, or empty if unknown."""
        return f"{self.source_frames[-1].filename}:{self.source_frames[-1].lineno}" if self.source_frames else ""

    def add_reader(self, result: int, reader: OpInfo) -> None:
        """Add `reader` to the readers of a result, once."""
        readers = self.outputs.get(result, ())
        if all(reader is not known for known in readers):
            self.outputs[result] = (*readers, reader)


@frozen(eq=False)
class InputEdge:
    """What an op reads: another op with the index of its result, or a state or input of the model without one.

    The attributes of the op are attributes of the edge.
    """

    op: OpInfo
    output_idx: int | None

    @property
    def op_name(self) -> str:
        """See `OpInfo`."""
        return self.op.op_name

    @property
    def op_type(self) -> str | None:
        """See `OpInfo`."""
        return self.op.op_type

    @property
    def module_stack(self) -> tuple[ModuleContext, ...]:
        """See `OpInfo`."""
        return self.op.module_stack

    @property
    def inputs(self) -> tuple[InputEdge, ...]:
        """See `OpInfo`."""
        return self.op.inputs

    @property
    def outputs(self) -> dict[int, tuple[OpInfo, ...]]:
        """See `OpInfo`."""
        return self.op.outputs

    @property
    def is_state(self) -> bool:
        """See `OpInfo`."""
        return self.op.is_state


@frozen
class BoundaryEdge:
    """An op at the boundary of a module: its `index`-th input enters the module, or its `index`-th result leaves it."""

    op: OpInfo
    index: int


@define(eq=False)
class ModuleInfo:
    """A module with its ops and children, traversed like a `torch.nn.Module`.

    Attributes:
        module_name: its path in the model, ``""`` for the model itself.
        module_type: the fully qualified name of its class.
        child_modules: the direct children, by path in the model.
        ops: the ops that run in it but not in its children, in execution order.
        input_ops: by index for ``module_input_spec``, the ops inside that read this input.
        output_ops: by index for ``module_output_spec``, the op inside that makes this output.
    """

    module_name: str
    module_type: str
    child_modules: dict[str, ModuleInfo] = field(factory=dict, repr=False)
    ops: list[OpInfo] = field(factory=list, repr=False)
    input_ops: dict[int, list[BoundaryEdge]] = field(factory=dict, repr=False)
    output_ops: dict[int, BoundaryEdge] = field(factory=dict, repr=False)

    @property
    def type_name(self) -> str:
        """The class name, without its module."""
        return self.module_type.rpartition(".")[2]

    def all_ops(self) -> list[OpInfo]:
        """The ops of this module and of all modules below it, module by module."""
        return [op for module in self.modules() for op in module.ops]

    def children(self) -> Iterator[ModuleInfo]:
        """Yield the direct children."""
        yield from self.child_modules.values()

    def named_children(self) -> Iterator[tuple[str, ModuleInfo]]:
        """Yield the direct children, each with its name in this module."""
        for path, child in self.child_modules.items():
            yield path.removeprefix(f"{self.module_name}."), child

    def modules(self) -> Iterator[ModuleInfo]:
        """Yield this module and its descendants, in the order of registration."""
        yield self
        for child in self.child_modules.values():
            yield from child.modules()

    def named_modules(self) -> Iterator[tuple[str, ModuleInfo]]:
        """Yield this module and its descendants, each with its path in the model."""
        for module in self.modules():
            yield module.module_name, module

    def get_submodule(self, module_name: str) -> ModuleInfo:
        """Return the module at the path `module_name`, relative to this one or in the model; ``""`` is this one.

        Raises:
            NoSuchModuleError: if there is none; the message suggests similar paths.
        """
        if not isinstance(module_name, str):
            raise NoSuchModuleError(f"the path of a module is a str, not a {type(module_name).__name__}")
        by_path = dict(self.named_modules())
        start = f"{self.module_name}." if self.module_name else ""
        found = self if not module_name else by_path.get(f"{start}{module_name}") or by_path.get(module_name)
        if found is None:
            paths = [name.removeprefix(start) for name in by_path]
            where = f"in {self.module_name!r}" if self.module_name else "in the model"
            raise NoSuchModuleError(f"there is no module {module_name!r} {where}{suggestion(module_name, paths)}")
        return found


@frozen(eq=False)
class ModelSummary:
    """The summary of a model: the module tree as `model`, and the execution mode that its names are for."""

    model: ModuleInfo
    mode: ExecutionMode

    @property
    def ops(self) -> list[OpInfo]:
        """All ops, module by module."""
        return self.model.all_ops()
