"""The workloads in xDSL, with ops defined as its documentation defines them."""

from __future__ import annotations

from typing import Any

from xdsl.context import Context
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import Builtin, DenseIntOrFPElementsAttr, ModuleOp, TensorType, f32
from xdsl.dialects.test import TestOp
from xdsl.ir import Dialect, Operation, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
)
from xdsl.traits import Pure
from xdsl.transforms.common_subexpression_elimination import cse
from xdsl.transforms.dead_code_elimination import region_dce

from graphpress.tools.bench.framework.workloads import (
    CONV_WEIGHT,
    IMAGES,
    INNER_OPS,
    MATRIX,
    NORM_CONSTANTS,
    NORM_SHAPE,
    Prepared,
    Program,
    program_of,
    reads_images,
)

PACKAGES = ("xdsl",)


class _Unary(IRDLOperation):
    x = operand_def(TensorType)
    out = result_def(TensorType)
    traits = traits_def(Pure())


class _Binary(IRDLOperation):
    x = operand_def(TensorType)
    y = operand_def(TensorType)
    out = result_def(TensorType)
    traits = traits_def(Pure())


def _defined(name: str, base: type) -> Any:
    return irdl_op_definition(type(name.capitalize(), (base,), {"name": f"bench.{name}", "__module__": __name__}))


OPS = {name: _defined(name, _Unary) for name in ("relu", *INNER_OPS)} | {
    name: _defined(name, _Binary) for name in ("add", "mul")
}


@irdl_op_definition
class Cat(IRDLOperation):
    """A concatenation."""

    name = "bench.cat"
    items = var_operand_def(TensorType)
    out = result_def(TensorType)
    traits = traits_def(Pure())


@irdl_op_definition
class Conv(IRDLOperation):
    """A convolution."""

    name = "bench.conv"
    x = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    out = result_def(TensorType)
    traits = traits_def(Pure())


@irdl_op_definition
class Norm(IRDLOperation):
    """A batch norm in evaluation."""

    name = "bench.norm"
    x = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = operand_def(TensorType)
    running_mean = operand_def(TensorType)
    running_var = operand_def(TensorType)
    out = result_def(TensorType)
    traits = traits_def(Pure())


_WEIGHT, _PER_CHANNEL = (
    DenseIntOrFPElementsAttr.from_list(TensorType(f32, shape), [1.0]) for shape in (CONV_WEIGHT, NORM_SHAPE)
)


def build(program: Program) -> ModuleOp:
    """Build a program; result types are passed, because ops declared like this infer none."""
    type = TensorType(f32, IMAGES if reads_images(program) else MATRIX)
    source = TestOp(result_types=[type])
    ops: list[Operation] = [source]
    values: list[SSAValue] = [source.results[0]]
    for name, places in program:
        read: list[Any] = [values[place] for place in places]
        if name == "cat":
            op: Operation = Cat.build(operands=[read], result_types=[type])
        elif name in ("conv", "norm"):
            constants = [ConstantOp(_WEIGHT)] if name == "conv" else [ConstantOp(_PER_CHANNEL) for _ in NORM_CONSTANTS]
            ops += constants
            read += [constant.result for constant in constants]
            op = Conv.build(operands=[*read, None], result_types=[type]) if name == "conv" else _make(Norm, read, type)
        else:
            op = _make(OPS[name], read, type)
        ops.append(op)
        values.append(op.results[0])
    ops.append(TestOp(operands=[values[-1]]))
    return ModuleOp(ops)


def _make(cls: Any, read: list[SSAValue], type: TensorType[Any]) -> Any:
    return cls.build(operands=read, result_types=[type])


def prepare(workload: str, nodes: int) -> Prepared | None:
    """Build what `workload` needs and return the call to time; None if it has no counterpart."""
    program = program_of(workload, nodes)
    if workload == "build":
        return lambda: build(program)
    module = build(program)
    if workload in ("always", "kept", "never", "never50"):
        inner = {"never50": INNER_OPS * 10, "never": ("tanh",)}.get(workload, ("relu",))
        patterns = [ReluOf(OPS[name]) for name in inner]
        return lambda: _apply(patterns, module)
    if workload == "fold":
        return lambda: _apply([ConvNorm()], module)
    if workload.startswith("commutative"):
        patterns_of_sums = [SumOf(int(workload[-1]))]
        return lambda: _apply(patterns_of_sums, module)
    if workload in ("wide uses", "wide node"):
        first, second = list(module.ops)[:2]
        return lambda: second.results[0].replace_all_uses_with(first.results[0])
    if workload == "parse":
        text, context = str(module), Context()
        context.load_dialect(Builtin)
        context.load_dialect(Dialect("bench", [*OPS.values(), Cat], []))
        context.load_dialect(Dialect("test", [TestOp], []))
        return lambda: Parser(context, text).parse_module()
    calls: dict[str, Prepared] = {
        "clone": module.clone,
        "print": lambda: str(module),
        "verify": module.verify,
        "dce": lambda: region_dce(module.body),
        "cse": lambda: cse(module),
        "wide cse": lambda: cse(module),
        "ten": lambda: [(region_dce(module.body), cse(module)) for _ in range(5)],
    }
    return calls.get(workload)


class ReluOf(RewritePattern):
    """Replace a relu of `inner` by its operand."""

    def __init__(self, inner: Any):
        self.inner = inner

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        """Rewrite `op` if it matches."""
        if isinstance(op, OPS["relu"]) and isinstance(op.operands[0].owner, self.inner):
            rewriter.replace(op, [], [op.operands[0]])


class ConvNorm(RewritePattern):
    """Replace a norm of a convolution that nothing else reads by a convolution with the bias of the norm."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        """Rewrite `op` if it matches."""
        if not isinstance(op, Norm):
            return
        conv = op.x.owner
        if not isinstance(conv, Conv) or conv.bias is not None or not op.x.has_one_use():
            return
        constants = (conv.weight, op.weight, op.bias, op.running_mean, op.running_var)
        if all(isinstance(value.owner, ConstantOp) for value in constants):
            made = Conv.build(operands=[conv.x, conv.weight, op.bias], result_types=[op.out.type])
            rewriter.replace(op, made)
            rewriter.erase(conv)


class SumOf(RewritePattern):
    """A sum of `depth` additions over a tanh, with the operands in either order."""

    def __init__(self, depth: int):
        self.depth = depth

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        """Rewrite `op` if it matches."""
        leaf = self._leaf(op, self.depth)
        if leaf is not None:
            rewriter.replace(op, [], [leaf.results[0]])

    def _leaf(self, op: Any, depth: int) -> Any:
        if depth == 0:
            return op if isinstance(op, OPS["tanh"]) else None
        if not isinstance(op, OPS["add"]):
            return None
        found = self._leaf(op.operands[0].owner, depth - 1)
        return found if found is not None else self._leaf(op.operands[1].owner, depth - 1)


def _apply(patterns: list[Any], module: ModuleOp) -> int:
    PatternRewriteWalker(GreedyRewritePatternApplier(patterns)).rewrite_module(module)
    return len(list(module.ops))
