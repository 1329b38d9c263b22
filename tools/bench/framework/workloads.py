"""The graphs that every framework builds, and the names of what is measured on them.

A program is a list of (op, operand numbers); number 0 is the input, number i the result of the i-th node. The last
result is the output. Every tensor is f32[8, 16]. Only ``conv`` and ``norm`` read and make f32[1, 4, 8, 8]; each of them
has constants of its own, one weight f32[4, 4, 1, 1] or four tensors f32[4].
"""

from __future__ import annotations

from collections.abc import Callable

Program = list[tuple[str, tuple[int, ...]]]

TITLES = {
    "always": "rule that always matches (relu of relu)",
    "kept": "the same, the inner node is kept",
    "fold": "conv + bn, with checks",
    "never": "rule that never matches",
    "never50": "50 rules that never match",
    "commutative4": "commutative pattern, depth 4",
    "commutative8": "commutative pattern, depth 8",
    "dce": "dead code",
    "cse": "common subexpressions",
    "build": "build, types inferred",
    "clone": "clone",
    "verify": "verify",
    "print": "print",
    "parse": "parse into a graph",
    "parse message": "the same, beside a parser in C++ that makes a message",
    "ten": "ten passes",
    "wide uses": "replace a value that many nodes use",
    "wide node": "replace a value that one node uses many times",
    "wide cse": "common subexpressions below a concat of equal branches",
}
SMALLER = {"commutative4": 10, "commutative8": 10}
"""Workloads that take this many times fewer nodes, because some frameworks search exponentially."""

MATRIX = (8, 16)
IMAGES = (1, 4, 8, 8)
CONV_WEIGHT = (4, 4, 1, 1)
NORM_CONSTANTS = ("weight", "bias", "running_mean", "running_var")
NORM_SHAPE = (4,)
EPS = 1e-5

INNER_OPS = ("sigmoid", "tanh", "exp", "sin", "cos")


def program_of(workload: str, nodes: int) -> Program:
    """Return the program of about `nodes` nodes that `workload` is measured on."""
    shape = {
        "always": _relus,
        "kept": _kept,
        "fold": _convolutions,
        "never": _relus,
        "never50": _relus,
        "commutative4": _sums,
        "commutative8": _sums,
        "dce": _half_dead,
        "cse": _twins,
        "wide uses": _fan_out,
        "wide node": _wide_node,
        "wide cse": _branches,
    }
    return shape.get(workload, _mixed)(nodes)


def reads_images(program: Program) -> bool:
    """Return True if the tensors of a program are `IMAGES`, and not `MATRIX`."""
    return any(name == "conv" for name, _ in program[:1])


def _mixed(nodes: int) -> Program:
    program: Program = []
    x = 0
    for _ in range(nodes // 4):
        at = len(program)
        program += [("relu", (x,)), ("sigmoid", (at + 1,)), ("add", (at + 1, at + 2)), ("mul", (at + 3, x))]
        x = at + 4
    return program


def _relus(nodes: int) -> Program:
    return [("relu", (index,)) for index in range(nodes)]


def _kept(nodes: int) -> Program:
    program: Program = []
    for _ in range(nodes // 3):
        at = len(program)
        program += [("relu", (at,)), ("relu", (at + 1,)), ("add", (at + 1, at + 2))]
    return program


def _convolutions(nodes: int) -> Program:
    return [("norm" if index % 2 else "conv", (index,)) for index in range(nodes - nodes % 2)]


def _sums(nodes: int) -> Program:
    return [("relu", (0,)), *(("add", (index, index - 1)) for index in range(1, nodes))]


def _half_dead(nodes: int) -> Program:
    program: Program = []
    x = 0
    for _ in range(nodes // 2):
        at = len(program)
        program += [("tanh", (x,)), ("relu", (x,))]
        x = at + 2
    return program


def _twins(nodes: int) -> Program:
    program: Program = []
    for _ in range(nodes // 3):
        at = len(program)
        program += [("relu", (at,)), ("relu", (at,)), ("add", (at + 1, at + 2))]
    return program


def _fan_out(nodes: int) -> Program:
    return [("tanh", (0,)), *(("relu", (1,)) for _ in range(nodes))]


def _wide_node(nodes: int) -> Program:
    return [("tanh", (0,)), ("cat", (1,) * nodes)]


def _branches(nodes: int) -> Program:
    return [*(("relu", (0,)) for _ in range(nodes - 1)), ("cat", tuple(range(1, nodes)))]


Prepared = Callable[[], object]
"""What is timed: a call without arguments. It may return the number of nodes afterwards."""
