"""One spelling for what torch spells several ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from attrs import frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import OpDef
from graphpress.ir.rewriter import Rewriter
from graphpress.passes.analysis.constants import DROPOUTS
from graphpress.passes.analysis.facts import CANONICAL
from graphpress.passes.framework.driver import apply_rules
from graphpress.passes.framework.effects import CLOSE
from graphpress.passes.framework.passes import PassContext
from graphpress.passes.framework.registry import register_pass
from graphpress.passes.framework.rewrite_pass import RewritePass

Rule = Callable[[Node, Rewriter], Value | list[Value] | None]


@register_pass
@frozen
class Canonicalize(RewritePass):
    """Rewrite each spelling of an operation to the one that later passes look for, and remove identities.

    Identities are exact. Batch norm in its several native forms, ``convolution`` and ``addmm`` become the high-level
    ops they are the same sum of products as; only the order of that sum may differ. Rules that users add see the one
    spelling, and run until none of them matches.

    Attributes:
        keep_dropout: leave the dropouts of a model that is to be trained, which are identities in evaluation. They
            move behind a relu they are in front of, so that it is next to its layer; one between a layer and its
            batch norm goes all the same.
    """

    gives = frozenset({CANONICAL})
    effect = CLOSE(rtol=1e-5, atol=1e-6)
    is_idempotent = True

    keep_dropout: bool = False

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Visit once every node whose op has a rule, then apply added rules."""
        keeps_strides = any(graph.nodes_of(lambda op: op.name in _READS_STRIDES))
        for node in graph.nodes_of(_rule_of):
            rule = _rule_of(node.op)
            if rule is None or (rule is _copy and keeps_strides):
                continue
            context.node = node
            if rule is _dropout and self.keep_dropout and not _stands_before_norm(node):
                _move_behind_relu(node, rewriter, context)
                continue
            _apply(rule, node, rewriter, context)
        context.node = None
        added = self.all_rules()
        if added:
            apply_rules(added, graph, rewriter, context)


@cache
def _rule_of(op: OpDef) -> Rule | None:
    dialect, _, name = op.name.partition(".")
    return (_RULES.get(name) or _RULES.get(op.short_name)) if dialect == "aten" else None


def _apply(rule: Rule, node: Node, rewriter: Rewriter, context: PassContext) -> None:
    name, added = node.name, rewriter.edits.added
    found = rule(node, rewriter)
    if found is None:
        return
    context.count(node.op.short_name)
    rewriter.replace(node, found)
    made = found[0].node if isinstance(found, list) else found.node
    if made is not None and rewriter.edits.added > added and node.graph is None:
        rewriter.rename(made, name)  # by which a config may mean it


def _dropout(node: Node, rewriter: Rewriter) -> Value | None:
    return None if node.attribute("train") else node.operand("input")


def _stands_before_norm(node: Node) -> bool:
    users = node.result.users
    return len(users) == node.result.use_count == 1 and users[0].op.family in _BATCH_NORMS


def _move_behind_relu(node: Node, rewriter: Rewriter, context: PassContext) -> None:
    """``relu(dropout(x))`` is ``dropout(relu(x))``: both multiply by a number that is not negative."""
    uses = node.result.uses
    source, relu = node.operand("input"), uses[0].user if len(uses) == 1 else None
    if source is None or not isinstance(relu, Node) or relu.op.name not in ("aten.relu", "aten.leaky_relu"):
        return
    if node.op.family not in ("dropout", "feature_dropout") or node.attribute("train"):  # the others shift values
        return
    rewriter.set_operand(relu, uses[0].operand, source)
    operands, attributes = {"input": relu.result}, dict(node.attributes)
    moved = rewriter.insert_before(relu._next, node.op.name, operands, attributes, location=node.location)
    rewriter.replace_uses(relu.result, moved.result, where=lambda use: use.user is not moved)
    name = node.name
    rewriter.erase(node)
    rewriter.rename(moved, name)
    context.count("moved")
    _move_behind_relu(moved, rewriter, context)  # of another relu


def _same_shape(node: Node, rewriter: Rewriter) -> Value | None:
    """A view, expansion or slice that gives back its operand."""
    source = node.operand("self")
    return source if source is not None and source.type == node.result.type else None


def _view(node: Node, rewriter: Rewriter) -> Value | None:
    """A view works for some strides only, a reshape for all: what is before it may then change its strides."""
    if node.op.name == "aten.view.dtype":
        return None
    same = _same_shape(node, rewriter)
    if same is not None or node.op.short_name == "view_as":
        return same
    shape = {"shape": node.operands["size"]} if "size" in node.operands else {}
    operands = {"self": node.operands["self"], **shape}
    attributes = {"shape": node.attributes["size"]} if "size" in node.attributes else {}
    types = [node.result.type]
    return rewriter.insert_before(node, "aten.reshape", operands, attributes, types=types, name=node.name).result


def _slice(node: Node, rewriter: Rewriter) -> Value | None:
    whole = node.attribute("step") == 1 and not node.attribute("start")
    return _same_shape(node, rewriter) if whole else None


def _copy(node: Node, rewriter: Rewriter) -> Value | None:
    """A copy of the same type; one that asks for a memory format only moves bytes."""
    return _same_shape(node, rewriter)


def _one_split(node: Node, rewriter: Rewriter) -> Value | None:
    return node.operand("self") if len(node.results) == 1 and node.operand("self").type == node.result.type else None  # type: ignore[union-attr]


def _multiply(node: Node, rewriter: Rewriter) -> Value | None:
    """Times or divided by one, of the same type; and ``x * sigmoid(x)``, which is ``silu(x)``."""
    if node.op.name == "aten.mul.Tensor":
        pair = node.operand("self"), node.operand("other")
        for value, gate in (pair, pair[::-1]):
            sigmoid = None if gate is None else gate.node
            if gate is None or sigmoid is None or sigmoid.op.name != "aten.sigmoid" or gate.use_count > 1:
                continue
            if value is not None and sigmoid.operand("self") is value and value.type == node.result.type:
                made = rewriter.insert_before(node, "aten.silu", {"self": value}, location=node.location)
                rewriter.replace([sigmoid, node], made.result)
                rewriter.rename(made, node.name)
                return None
    other = node.attributes.get("other")
    is_one = isinstance(other, int | float) and not isinstance(other, bool) and other == 1
    return _same_shape(node, rewriter) if is_one and node.attributes.get("rounding_mode") is None else None


def _batch_norm(node: Node, rewriter: Rewriter) -> list[Value] | None:
    """The native forms return statistics too; they are batch norms where nobody reads those."""
    if any(result.use_count for result in node.results[1:]) or node.attributes.get("training", False):
        return None
    names = {"input", "weight", "bias", "running_mean", "running_var"}
    operands = {name: value for name, value in node.operands.items() if name in names}
    momentum = node.attributes.get("momentum", node.attributes.get("exponential_average_factor", 0.1))
    attributes = {
        "training": False,
        "momentum": momentum,
        "eps": node.attributes.get("eps", node.attributes.get("epsilon", 1e-5)),
        "cudnn_enabled": False,
    }
    made = rewriter.insert_before(node, "aten.batch_norm", operands, attributes, types=[node.results[0].type])
    return [made.result, *node.results[1:]]


def _addmm(node: Node, rewriter: Rewriter) -> Value | None:
    """``addmm(bias, x, weight.t())`` is a linear layer."""
    transposed = node.operands["mat2"].node
    if transposed is None or transposed.op.name not in ("aten.t", "aten.transpose.int", "aten.permute"):
        return None
    if node.attributes.get("beta", 1) != 1 or node.attributes.get("alpha", 1) != 1:
        return None
    bias = node.operand("self")
    if bias is None or bias.tensor_type.rank != 1 or transposed.operands["self"].tensor_type.rank != 2:
        return None
    operands = {"input": node.operands["mat1"], "weight": transposed.operands["self"], "bias": bias}
    return rewriter.insert_before(node, "aten.linear", operands, types=[node.result.type]).result


def _convolution(node: Node, rewriter: Rewriter) -> Value | None:
    """The decomposed form of every convolution."""
    spatial = node.operands["input"].tensor_type.rank - 2
    if spatial not in (1, 2, 3):
        return None
    operands = {name: node.operand(name) for name in ("input", "weight", "bias")}
    names = ["stride", "padding", "dilation", "groups"]
    attributes: dict[str, Any] = {name: node.attribute(name) for name in names}
    op = f"aten.conv{spatial}d"
    if node.attribute("transposed"):
        op = f"aten.conv_transpose{spatial}d" + (".input" if spatial > 1 else "")
        attributes["output_padding"] = node.attribute("output_padding")
    return rewriter.insert_before(node, op, operands, attributes, types=[node.result.type]).result


def _padded_convolution(node: Node, rewriter: Rewriter) -> Value | None:
    """``padding="valid"`` and ``"same"`` as numbers, where the padding is the same on both sides."""
    spatial = node.operands["weight"].tensor_type.rank - 2
    kernel = node.operands["weight"].tensor_type.shape[2:]
    dilation = _per_axis(node.attribute("dilation"), spatial)
    padding = [0] * spatial
    if node.attribute("padding") == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(total % 2 for total in totals):
            return None
        padding = [total // 2 for total in totals]
    attributes = {name: node.attribute(name) for name in ("stride", "dilation", "groups")} | {"padding": padding}
    op = node.op.name.removesuffix(".padding")
    made = rewriter.insert_before(node, op, dict(node.operands), attributes, types=[node.result.type])
    return made.result


def _per_axis(value: Any, count: int) -> list[int]:
    items = list(value) if isinstance(value, tuple) else [value]
    return items * count if len(items) == 1 else items


# Ops that see how a tensor lies in memory, which copies decide.
_READS_STRIDES = frozenset(
    {"aten.as_strided", "aten.view.dtype", "aten.view_as", "aten.view_as_complex", "aten.view_as_real"}
)

_NATIVE_BATCH_NORMS = (
    "_native_batch_norm_legit_no_training",
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_batch_norm_no_update",
)
_BATCH_NORMS = ("batch_norm", *_NATIVE_BATCH_NORMS)

_RULES: Mapping[str, Rule] = (
    dict.fromkeys(DROPOUTS, _dropout)
    | dict.fromkeys(("reshape", "expand", "flatten", "alias", "detach", "squeeze"), _same_shape)
    | dict.fromkeys(("lift_fresh_copy", "lift_fresh", "expand_as"), _same_shape)
    | dict.fromkeys(("view", "view_as", "_unsafe_view"), _view)
    | dict.fromkeys(("to", "_to_copy", "clone", "type_as", "contiguous"), _copy)
    | dict.fromkeys(("mul", "div"), _multiply)
    | {"slice": _slice, "addmm": _addmm, "convolution": _convolution}
    | dict.fromkeys(("split", "chunk", "split_with_sizes"), _one_split)
    | dict.fromkeys(("conv1d.padding", "conv2d.padding", "conv3d.padding"), _padded_convolution)
    | dict.fromkeys(_NATIVE_BATCH_NORMS, _batch_norm)
)
