"""Functionalization of in-place ops without retracing.

torch.export leaves in-place ops in the graph, while IR values are immutable. An in-place op on tensor `t` becomes its
out-of-place form, and later reads of `t` read the new value. Aliasing is exact: the fake tensors of one trace share
storages as the real tensors do. If other tensors that share memory with `t` are read after the write, they change too:
a tensor of which `t` is a slice by a scatter of the new value, and other views of it by taking them again. Graphs for
which this does not suffice raise `Entangled`, and the caller lets torch functionalize them, which traces them again.

A `Cell` is one tensor object of the traced program, with all fx nodes for it and its current value.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field
from torch.export import ExportedProgram
from torch.fx import Node as FxNode

from graphpress.ir.graph import Value
from graphpress.ir.torch.types import dim_of
from graphpress.ir.types import Dim

# In-place ops that change the identity or size of their first operand, not its data.
_RESIZING = {"resize_", "resize_as_", "set_", "resize_as_sparse_", "sparse_resize_", "as_strided_"}


class Entangled(Exception):
    """A write that is visible through other live tensors; the message names the fx node."""


@define(eq=False)
class Cell:
    """One tensor of the traced program.

    Attributes:
        outside: True if the caller of the graph can see it.
        last_use: the position of the last node that reads it.
        value: its current value.
        is_written: True if its data changes.
        base: the tensor of which this one is a view, if any.
        view: the fx node that took the view.
        views: the views of this tensor.
        tops: by the fx node of a write to this tensor, the highest base that changes with it.
        is_stale: True if the view has to be taken again from `base` before `value` is read.
    """

    outside: bool = False
    last_use: int = -1
    value: Value | None = None
    is_written: bool = field(default=False)
    base: Cell | None = None
    view: FxNode | None = None
    views: list[Cell] = field(factory=list)
    tops: dict[FxNode, Cell] = field(factory=dict)
    is_stale: bool = False

    def line(self) -> list[Cell]:
        """Return the cell, its base, the base of that, and so on."""
        found = [self]
        while found[-1].base is not None:
            found.append(found[-1].base)
        return found

    def line_to(self, top: Cell) -> list[Cell]:
        """Return the cell and its bases up to `top`."""
        line = self.line()
        return line[: line.index(top) + 1]


_ATEN = torch.ops.aten

SCATTERS: dict[Any, Any] = {
    _ATEN.select.int: _ATEN.select_scatter.default,
    _ATEN.slice.Tensor: _ATEN.slice_scatter.default,
    _ATEN.diagonal.default: _ATEN.diagonal_scatter.default,
}
"""By op that takes a part of a tensor, the op that replaces this part; both have the same arguments, but for `src`."""

# Ops that can be taken again from a new value of their operand.
_VIEWS = frozenset(
    {
        *SCATTERS,
        _ATEN.view.default,
        _ATEN.reshape.default,
        _ATEN.flatten.using_ints,
        _ATEN.transpose.int,
        _ATEN.permute.default,
        _ATEN.t.default,
        _ATEN.unsqueeze.default,
        _ATEN.squeeze.dim,
        _ATEN.expand.default,
        _ATEN.alias.default,
        _ATEN.detach.default,
    }
)


def plan_writes(nodes: Iterable[FxNode]) -> dict[FxNode, Cell]:
    """Return the cell of every tensor-valued node of a graph with writes, or an empty dict without writes.

    One traversal finds the last uses, a second one checks every write against the live aliases of its target.

    Raises:
        Entangled: if a write cannot be replaced by a new value.
    """
    nodes = list(nodes)
    if not any(written_arguments(node) for node in nodes):
        return {}
    cells = _assign_cells(nodes)
    _check_writes(nodes, cells)
    return cells


def written_arguments(node: FxNode) -> list[FxNode]:
    """Return the fx nodes whose tensors `node` writes to, including writes that its schema does not declare."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return []
    if target in _HIDDEN_WRITES:
        first, flag = _HIDDEN_WRITES[target]
        if not _argument(node, target, flag):
            return []
        return [a for a in (_argument(node, target, first + i) for i in (0, 1)) if isinstance(a, FxNode)]
    if not target._schema.is_mutable or target is torch.ops.aten.detach_.default:
        return []
    written: list[FxNode] = []
    for index, argument in enumerate(target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            operand = _argument(node, target, index)
            written += [a for a in (operand if isinstance(operand, list | tuple) else [operand]) if a is not None]
    return written


def functional_form(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """Return the out-of-place form of an in-place op (same arguments, new result), or None."""
    name = target._schema.name.partition("::")[2]
    packet = getattr(torch.ops.aten, name[:-1], None)
    found = getattr(packet, target._overloadname, None)
    if not isinstance(found, torch._ops.OpOverload) or found._schema.is_mutable:
        return None
    same = [a.name for a in found._schema.arguments] == [a.name for a in target._schema.arguments]
    return found if same and len(found._schema.returns) == 1 else None


_BATCH_NORM = torch.ops.aten.batch_norm.default

# Ops that update running statistics undeclared: the positions of the first statistic and of the flag.
_HIDDEN_WRITES: dict[Any, tuple[int, int]] = {
    _BATCH_NORM: (3, 5),
    torch.ops.aten.native_batch_norm.default: (3, 5),
    torch.ops.aten.instance_norm.default: (3, 5),
}


def is_training_batch_norm(node: FxNode) -> bool:
    """Return True for a batch norm that updates running statistics."""
    return node.target is _BATCH_NORM and bool(written_arguments(node))


def _argument(node: FxNode, target: torch._ops.OpOverload, index: int) -> Any:
    return node.args[index] if index < len(node.args) else node.kwargs.get(target._schema.arguments[index].name)


def _assign_cells(nodes: list[FxNode]) -> dict[FxNode, Cell]:
    cells: dict[FxNode, Cell] = {}
    for position, node in enumerate(nodes):
        for operand in node.all_input_nodes:
            if operand in cells:
                cells[operand].last_use = position
        if not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        written = written_arguments(node)
        if written and not is_training_batch_norm(node):
            if written[0] not in cells:
                raise Entangled(f"{node.name} writes to an object that is not a tensor of this graph")
            if _storage(node) != _storage(written[0]):
                raise Entangled(f"{node.name} does not return the tensor that it writes to")
            cells[node] = cells[written[0]]
        else:
            cells[node] = Cell(outside=node.op in ("placeholder", "get_attr"))
            source = node.args[0] if node.target in _VIEWS and node.args else None
            base = cells.get(source) if isinstance(source, FxNode) else None
            if base is not None and _storage(node) == _storage(source):  # type: ignore[arg-type]
                cells[node].base, cells[node].view = base, node
                base.views.append(cells[node])
    return cells


def _check_writes(nodes: list[FxNode], cells: dict[FxNode, Cell]) -> None:
    sharing: dict[int, list[Cell]] = {}  # storage -> live cells so far
    born: set[int] = set()

    def register(node: FxNode) -> None:
        cell = cells.get(node)
        if cell is not None and id(cell) not in born:
            born.add(id(cell))
            sharing.setdefault(_storage(node), []).append(cell)

    for position, node in enumerate(nodes):
        written = written_arguments(node)
        if written and not is_training_batch_norm(node):
            _require_simple(node, written)
        for target in written:
            if target not in cells:
                raise Entangled(f"{node.name} writes to {target}, which is not a tensor of this graph")
            cell = cells[target]
            living = [c for c in sharing[_storage(target)] if c is cell or c.outside or c.last_use > position]
            sharing[_storage(target)] = living
            only_identity = torch.Tag.inplace_view in node.target.tags  # type: ignore[union-attr]
            if only_identity and cell.outside:
                raise Entangled(f"{node.name} changes the shape of memory that the caller sees")
            if len(living) > 1 and not only_identity:
                if is_training_batch_norm(node):
                    raise Entangled(f"{node.name} writes to memory that another tensor reads later")
                cell.tops[node] = _highest_changed(node, cell, living)
            for each in cell.line_to(cell.tops.get(node, cell)):
                each.is_written = not only_identity or each.is_written
        register(node)
        for user in node.users:  # views in a list live as long as the list
            if user.target is operator.getitem:
                register(user)


def _highest_changed(node: FxNode, cell: Cell, living: list[Cell]) -> Cell:
    """Return the highest base of `cell` that changes with it, because that or another view of it is read later.

    Raises:
        Entangled: if a living cell is no relative of `cell` by views, or one of the bases cannot be rebuilt.
    """
    line = cell.line()
    height = 0
    for each in living:
        meeting = next((line.index(base) for base in each.line() if base in line), None)
        if meeting is None:
            raise Entangled(f"{node.name} writes to memory that another tensor reads later")
        height = max(height, meeting)
    for part in line[:height]:
        assert part.view is not None
        if part.view.target not in SCATTERS or _overlaps(part.view.args[0].meta["val"]):  # type: ignore[union-attr]
            raise Entangled(f"{node.name} writes through {part.view.name}, which has no inverse")
    return line[height]


def _overlaps(tensor: torch.Tensor) -> bool:
    """Return True if elements may share memory, as after an expand."""
    return any(not isinstance(step, int) or step == 0 for step in tensor.stride())


def _require_simple(node: FxNode, written: list[FxNode]) -> None:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    name = target._schema.name.partition("::")[2]
    first = _argument(node, target, 0)
    if target.namespace != "aten" or len(written) != 1 or written[0] is not first or name in _RESIZING:
        raise Entangled(f"{node.name} ({target}) has no out-of-place form")
    if name != "copy_" and functional_form(target) is None:
        raise Entangled(f"{node.name} ({target}) has no out-of-place form")


def _storage(node: FxNode) -> int:
    try:
        return node.meta["val"].untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse, or inside a vmap
        raise Entangled(f"{node.name} has no storage to compare") from None


@contextmanager
def explicit_copies(program: ExportedProgram) -> Iterator[None]:
    """Make the source of every `copy_` match the element type, shape and strides of its target.

    torch's functionalization uses the source of a `copy_` as the new value of a buffer, whatever its type.
    """
    added: list[FxNode] = []
    restore: list[tuple[FxNode, FxNode]] = []
    graph = program.graph
    for node in [node for node in graph.nodes if node.target is torch.ops.aten.copy_.default]:
        target, source = node.args[:2]
        wanted, given = target.meta["val"], source.meta["val"]
        restore.append((node, source))
        with graph.inserting_before(node):
            if given.dtype != wanted.dtype:
                source = graph.call_function(torch.ops.aten.to.dtype, (source, wanted.dtype))
                added.append(source)
            if _layout(given)[0] != _layout(wanted)[0]:
                source = graph.call_function(torch.ops.aten.expand_as.default, (source, target))
                added.append(source)
            if needs_own_memory(given, wanted):
                contiguous = {"memory_format": torch.contiguous_format}
                source = graph.call_function(torch.ops.aten.clone.default, (source,), contiguous)
                added.append(source)
        node.update_arg(1, source)
    for node in added:
        node.meta = {key: item for key, item in next(iter(node.users)).meta.items() if key != "val"}
    program.graph_module.recompile()
    try:
        yield
    finally:
        for node, source in restore:
            node.update_arg(1, source)
        for node in reversed(added):
            graph.erase_node(node)
        program.graph_module.recompile()


def needs_own_memory(source: torch.Tensor, target: torch.Tensor) -> bool:
    """Return True if a copy of `source` has the memory layout of `target` but `source` does not.

    Later views and the order of summation depend on the layout.
    """
    if _layout(source) == _layout(target):
        return False
    shape, stride = _layout(target)
    expected: Dim = 1
    for dim, step in zip(reversed(shape), reversed(stride), strict=True):
        if step != expected and dim != 1:
            return False
        if not isinstance(dim, int) or not isinstance(expected, int):
            return True  # only the last of several symbolic dims is compared
        expected *= dim
    return True


def _layout(tensor: torch.Tensor) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Return shape and strides, with symbolic dims as expressions to avoid new guards."""
    return tuple(map(dim_of, tensor.shape)), tuple(map(dim_of, tensor.stride()))
