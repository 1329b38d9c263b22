"""The workloads in TVM's Relax."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.dpl import is_op, rewrite_call, wildcard
from tvm.relax.utils import copy_with_new_vars

from graphpress.tools.bench.framework.workloads import Prepared, Program, program_of

PACKAGES = ("apache-tvm",)
OPS = {
    "relu": relax.op.nn.relu,
    "sigmoid": relax.op.sigmoid,
    "tanh": relax.op.tanh,
    "add": relax.op.add,
    "mul": relax.op.multiply,
}


def build(program: Program) -> Any:
    """Build a program with the block builder, which infers the types."""
    builder = relax.BlockBuilder()
    source = relax.Var("x", relax.TensorType((8, 16), "float32"))
    values: list[Any] = [source]
    with builder.function("main", [source]):
        with builder.dataflow():
            for name, places in program:
                read = [values[place] for place in places]
                call = relax.op.concat(read) if name == "cat" else OPS[name](*read)
                values.append(builder.emit(call))
            result = builder.emit_output(values[-1])
        builder.emit_func_output(result)
    return builder.get()


def prepare(workload: str, nodes: int) -> Prepared | None:
    """Build what `workload` needs and return the call to time; None if it has no counterpart."""
    if workload in ("fold", "never50") or workload.startswith(("wide", "commutative", "parse")):
        return None  # a call takes one pattern, a rewritten call is not matched again, values are immutable
    program = program_of(workload, nodes)
    if workload == "build":
        return lambda: build(program)
    module = build(program)
    main = module["main"]
    if workload in ("always", "kept", "never"):
        inner = is_op("relax.tanh" if workload == "never" else "relax.nn.relu")(wildcard())
        pattern = is_op("relax.nn.relu")(inner)
        return lambda: rewrite_call(pattern, lambda _, found: found[inner], main)
    dead, equal = relax.transform.DeadCodeElimination(), relax.transform.EliminateCommonSubexpr()
    calls: dict[str, Prepared] = {
        "clone": lambda: copy_with_new_vars(main),
        "print": module.script,
        "verify": lambda: relax.analysis.well_formed(module),
        "dce": lambda: dead(module),
        "cse": lambda: equal(module),
        "ten": lambda: tvm.transform.Sequential([dead, equal] * 5)(module),
    }
    return calls.get(workload)
