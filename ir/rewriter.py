"""Graph editing through `Rewriter`, with edits counted and grouped into rewrites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import define, field, frozen

from graphpress.ir.annotations import annotation_name
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, GraphError, Node, Use, Value
from graphpress.ir.inference import infer_types
from graphpress.ir.location import UNKNOWN, Location
from graphpress.ir.ops import OpDef, lookup_op
from graphpress.ir.types import TensorType, Type


class RewriteLimitReached(BaseException):
    """Stops a pass before the first rewrite beyond the limit.

    Not an `Exception`, so that passes do not handle it as a failure of their own.
    """


@frozen
class Rewrite:
    """One rewrite, described as of its start.

    Attributes:
        number: from 1, in execution order.
        title: the rule, or the kind of the first edit.
        node_name, op_name, location: the root node, which may be erased afterwards; empty if there is none.
    """

    number: int
    title: str
    node_name: str = ""
    op_name: str = ""
    location: Location = UNKNOWN

    def __str__(self) -> str:
        where = f" at {self.node_name} ({self.op_name})" if self.node_name else ""
        return f"rewrite {self.number}: {self.title}{where}"


def _nowhere() -> Node | None:
    return None


@define(eq=False)
class RewriteCounter:
    """Counts the rewrites of a `Rewriter`.

    Attributes:
        limit: the maximum number of rewrites; None for no limit.
        focus: returns the node that the pass is processing, or None if unknown.
        count: the number of rewrites begun so far.
        listener: called with each rewrite when it begins.
    """

    limit: int | None = None
    focus: Callable[[], Node | None] = _nowhere
    count: int = 0
    listener: Callable[[Rewrite], None] | None = None
    _latest: tuple[Any, ...] = field(default=(), init=False)  # what describes the latest rewrite
    _rule: tuple[str, Node] | None = field(default=None, init=False)
    _is_open: bool = field(default=False, init=False)
    _common: object = field(default=None, init=False)  # the node or constant that the edits of the open rewrite share

    def begin(self, title: str, node: Node) -> None:
        """Group all edits until `end` into one rewrite called `title`, rooted at `node`.

        Without edits, no rewrite is counted.
        """
        self._rule, self._is_open = (title, node), False

    def end(self) -> None:
        """Close the current rewrite."""
        self._rule, self._is_open, self._common = None, False, None

    def edit(self, title: str, node: Node | None, *, is_preparation: bool = False) -> None:
        """Record that `node` is about to be edited.

        A preparation (an insertion) belongs to the edit it is made for.

        Raises:
            RewriteLimitReached: if this is the first edit of a rewrite beyond the limit.
        """
        if self._rule is not None:
            if not self._is_open:
                self._open(*self._rule)
            return
        focus = self.focus()
        if focus is not None:
            self._continue_with(focus)
        elif is_preparation:
            self._continue_with(_PREPARING)
        elif self._common is _PREPARING:
            self._common = node
        else:
            self._continue_with(node)
        self._open(title, focus or node)

    def _continue_with(self, common: object) -> None:
        """Close the rewrite if the next edit is unrelated to it."""
        if common is None or common is not self._common:
            self._is_open, self._common = False, common

    def _open(self, title: str, node: Node | None) -> None:
        if self._is_open:
            return
        if self.limit is not None and self.count >= self.limit:
            raise RewriteLimitReached
        self.count += 1
        self._is_open = True
        at = () if node is None else (node.name, node.op.name, node.location)
        self._latest = (self.count, title, *at)
        if self.listener is not None:
            self.listener(Rewrite(*self._latest))

    @property
    def last(self) -> Rewrite | None:
        """The latest rewrite."""
        return Rewrite(*self._latest) if self._latest else None


_PREPARING = object()


@define
class EditCounts:
    """The number of edits of a rewriter, by kind; annotations count as `changed` too."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    constants: int = 0
    annotated: int = 0

    def __bool__(self) -> bool:
        return self.total > 0

    @property
    def total(self) -> int:
        """The number of edits, which only ever grows."""
        return self.added + self.removed + self.changed + self.constants


@define(eq=False)
class Rewriter:
    """Edits one graph, and records the edits.

    Attributes:
        graph: the graph being edited.
        edits: what was changed so far.
        touched: names of nodes added or changed so far, in order.
        listener: called with every node that is new or reads something new, for drivers that keep a worklist.
        rewrites: groups the edits into rewrites, and may stop the pass after so many.
        made: the nodes made since the last `begin` or `replace`, oldest first.
    """

    graph: Graph
    edits: EditCounts = field(factory=EditCounts)
    touched: dict[str, None] = field(factory=dict)
    listener: Callable[[Node], None] | None = None
    rewrites: RewriteCounter = field(factory=RewriteCounter)
    made: list[Node] = field(factory=list, init=False)
    _unplaced: list[Node] = field(factory=list, init=False)  # those of them that were given no location

    def begin(self, title: str, node: Node) -> None:
        """All edits until the next `begin`, or `rewrites.end`, are one rewrite, called `title`, that starts from
        `node`. What was made before has nothing to do with it.
        """
        if self.made:
            self._forget_made()
        self.rewrites.begin(title, node)

    def insert_before(
        self,
        anchor: Node | None,
        op: OpDef | str,
        operands: Mapping[str, Any],
        attributes: Mapping[str, Any] | None = None,
        *,
        types: Iterable[Type] | None = None,
        name: str | None = None,
        location: Location | None = None,
    ) -> Node:
        """Insert a node before `anchor` (None: at the end of the graph).

        Types are inferred if not passed. The node has the location of `anchor` until `replace` sets it. Attributes
        equal to the default of the op's schema are dropped.
        """
        op = lookup_op(op) if isinstance(op, str) else op
        operands = {k: tuple(v) if isinstance(v, list) else v for k, v in operands.items() if v is not None}
        attributes = drop_defaults(op, attributes or {})
        if types is None:
            types = infer_types(op, operands, attributes, self.graph.symbols)
            if types is None:
                raise GraphError(f"cannot infer the result types of {op.name}: pass them as `types`")
        self.rewrites.edit(f"insert {op.name}", anchor, is_preparation=True)
        where = location if location is not None else anchor.location if anchor is not None else UNKNOWN
        node = self.graph.insert(op, operands, attributes, types, name=name, location=where, before=anchor)
        self.edits.added += 1
        self.made.append(node)
        if location is None:
            self._unplaced.append(node)
        self._touch(node)
        return node

    def insert_after(
        self, anchor: Node, op: OpDef | str, operands: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> Node:
        """Make a node right after `anchor`; arguments as in `insert_before`. The location is `anchor`'s for good."""
        following = anchor._next
        kwargs.setdefault("location", anchor.location)
        return self.insert_before(following, op, operands, *args, **kwargs)

    def replace(self, old: Node | Sequence[Node], new: Value | Sequence[Value]) -> None:
        """Replace the results of the last node of `old` by `new`, and erase the nodes of `old` that become unused.

        Nodes inserted since the last `replace` get the locations of all of `old`; a value that existed before keeps its
        own.
        """
        matched = (old,) if isinstance(old, Node) else tuple(old)
        root = matched[-1]
        values = (new,) if isinstance(new, Value) else tuple(new)
        if len(values) != len(root.results):
            raise GraphError(f"{root.name} has {len(root.results)} results, got {len(values)} replacements")
        self.rewrites.edit("replace", root)
        if self._unplaced:
            location = Location.union(node.location for node in matched)
            for node in self._unplaced:
                if node.graph is not None:
                    node.location = location
        if self.made:
            self._forget_made()
        for result, value in zip(root.results, values, strict=True):
            if result._uses:
                self._move_uses(result, value)
        for node in reversed(matched):
            if node.is_dead and node.graph is not None:
                self._remove(node)

    def replace_uses(self, old: Value, new: Value, *, where: Callable[[Use], bool] | None = None) -> None:
        """Redirect the uses of `old` (that `where` accepts) to `new`."""
        self.rewrites.edit("replace uses", old.node)
        self._move_uses(old, new, where)

    def erase(self, node: Node) -> None:
        """Remove a node without uses."""
        self.rewrites.edit("erase", node)
        self._remove(node)

    def rename(self, node: Node, name: str) -> None:
        """Rename `node` to `name`, with a number appended if the name is taken.

        Used to give the replacement of an erased node the name of that node.
        """
        names = self.graph._names
        names.discard(node.name)
        self.touched.pop(node.name, None)
        node.name = self.graph.fresh_name(name)
        self.touched[node.name] = None
        self.edits.changed += 1

    def set_operand(self, node: Node, name: str, operand: Any) -> None:
        """Set the operand `name` of `node`; None removes it."""
        self.rewrites.edit(f"set operand {name}", node)
        self.graph.set_operand(node, name, operand)
        self.edits.changed += 1
        self._touch(node)

    def set_attribute(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute; a value equal to the default of the schema is dropped."""
        if node.attributes.get(name) == value and name in node.attributes:
            return
        self.rewrites.edit(f"set attribute {name}", node)
        node.attributes.pop(name, None)
        node.attributes |= drop_defaults(node.op, {name: value})
        self.edits.changed += 1
        self._touch(node)

    def annotate(self, node: Node, annotation: Any) -> None:
        """Attach `annotation` to `node`, replacing one of the same class."""
        name = annotation_name(type(annotation))  # raises if the class is not registered
        if node.annotations.get(type(annotation)) == annotation:
            return
        self.rewrites.edit(f"annotate with {name}", node)
        node.annotations[type(annotation)] = annotation
        self.edits.changed += 1
        self.edits.annotated += 1
        self.touched[node.name] = None

    def remove_annotation(self, node: Node, kind: type) -> None:
        """Remove the annotation of class `kind`, if there is one."""
        if kind in node.annotations:
            self.rewrites.edit(f"remove annotation {annotation_name(kind)}", node)
            del node.annotations[kind]
            self.edits.changed += 1
            self.edits.annotated += 1
            self.touched[node.name] = None

    def add_constant(
        self, name: str, tensor: torch.Tensor, kind: str = "buffer", *, type: TensorType | None = None
    ) -> Value:
        """Add a constant and return its value; `type` is required for codes in a wider container."""
        self.rewrites.edit(f"add constant {name}", None, is_preparation=True)
        self.edits.constants += 1
        return self.graph.add_constant(name, tensor, kind, type=type).value

    def replace_constant(self, constant: Constant, tensor: torch.Tensor) -> None:
        """Replace the data of `constant` by data of the same type, for every use."""
        if tensor.shape != constant.tensor.shape or tensor.dtype != constant.tensor.dtype:
            raise GraphError(f"{constant.name}: {TensorType.of(tensor)} cannot replace {constant.type}")
        self.rewrites.edit(f"replace constant {constant.name}", None)
        constant._tensor = tensor
        constant.digest = None
        self.edits.constants += 1

    def cast_constant(self, constant: Constant, dtype: DType) -> None:
        """Round the data of `constant` to `dtype`, for every use; the caller adapts the users."""
        self.rewrites.edit(f"cast constant {constant.name}", None)
        tensor = constant.tensor.detach().to(dtype.torch_dtype)
        constant._tensor = tensor if constant.kind != "parameter" else _parameter_like(constant.tensor, tensor)
        constant.digest = None
        constant.value.type = constant.type.with_dtype(dtype)
        self.edits.constants += 1

    def retype(self, value: Value, type: Type) -> None:
        """Change the type of an input or a result; the caller has changed its producer."""
        self.rewrites.edit(f"retype {value.name}", value.node)
        value.type = type
        self.edits.changed += 1

    def erase_constant(self, constant: Constant) -> None:
        """Remove a constant without uses."""
        self.rewrites.edit(f"erase constant {constant.name}", None)
        self.graph.erase_constant(constant)
        self.edits.constants += 1

    def _forget_made(self) -> None:
        self.made.clear()
        self._unplaced.clear()

    def _move_uses(self, old: Value, new: Value, where: Callable[[Use], bool] | None = None) -> None:
        if old is new:
            return
        moved = self.graph._move_uses(old, new, where)
        self.edits.changed += len(moved)
        touched, listener = self.touched, self.listener
        for user in [moved[0][0]] if len(moved) == 1 else dict.fromkeys([user for user, _, _ in moved]):
            if isinstance(user, Node):
                touched[user.name] = None
                if listener is not None:
                    listener(user)

    def _remove(self, node: Node) -> None:
        self.graph.erase(node)
        self.touched.pop(node.name, None)
        self.edits.removed += 1

    def _touch(self, node: Node) -> None:
        self.touched[node.name] = None
        if self.listener is not None:
            self.listener(node)


def _parameter_like(parameter: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter(data, requires_grad=parameter.requires_grad)


def drop_defaults(op: OpDef, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `attributes` without schema defaults, and with lists converted to tuples."""
    kept: dict[str, Any] = {}
    for name, value in attributes.items():
        value = tuple(value) if isinstance(value, list) else value
        parameter = op.by_name.get(name)
        if parameter is None or parameter.is_required or not _same(parameter.default, value):
            kept[name] = value
    return kept


def _same(default: Any, value: Any) -> bool:
    return type(default) is type(value) and default == value
