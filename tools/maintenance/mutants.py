"""Mutants of a module: where Cosmic Ray's operators, and two of our own, can change it, and a seeded sample of them."""

from __future__ import annotations

import ast
import builtins
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
import parso
from attrs import frozen
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator

Position = tuple[int, int]

# Values with `eq=False` and enum members are equal where they are identical, so these change nothing.
SAME_ON_OBJECTS = re.compile(r"ReplaceComparisonOperator_(Is_Eq|Eq_Is|IsNot_NotEq|NotEq_IsNot)$")
CACHES = ("lru_cache", "cache")


class RemoveStatement(Operator):
    """Remove a call, a `raise`, or an assignment to a part of something."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        """The statement, where its absence is not an undefined name."""
        if node.type == "simple_stmt" and _is_removable(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Put `pass` in its place."""
        node.children[0] = _text("pass", node.children[0])
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """What it does."""
        return (Example("f(x)\n", "pass\n"), Example("raise E\n", "pass\n"), Example("a.b = 1\n", "pass\n"))


class ReturnNone(Operator):
    """Return None in place of an expression."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        """Every `return` of something else than None."""
        if node.type == "return_stmt" and node.children[1].get_code().strip() != "None":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Put `None` in its place."""
        node.children[1] = _text("None", node.children[1])
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """What it does."""
        return (Example("def f():\n    return 1\n", "def f():\n    return None\n"),)


OWN_OPERATORS: dict[str, type[Operator]] = {"RemoveStatement": RemoveStatement, "ReturnNone": ReturnNone}


@frozen
class Mutant:
    """One change of one module.

    Attributes:
        path: the module, from the root of the repository.
        operator: the name of the operator; those of Cosmic Ray begin with ``core/``.
        occurrence: which of the operator's places in the module.
        line: where that is.
        digest: of the module's text, since another text has other places.
    """

    path: str
    operator: str
    occurrence: int
    line: int
    digest: str

    def apply(self, source: str) -> str:
        """`source`, the text of the module, with the change."""
        mutated = mutate_code(source, _operator(self.operator), self.occurrence)
        assert mutated is not None, self
        return mutated

    def change(self, source: str) -> tuple[str, str]:
        """The lines it removes and the lines it adds, without indentation."""
        lines = list(unified_diff(source.splitlines(), self.apply(source).splitlines(), n=0, lineterm=""))[2:]
        removed = [line[1:].strip() for line in lines if line.startswith("-")]
        added = [line[1:].strip() for line in lines if line.startswith("+")]
        return "\n".join(removed), "\n".join(added)


def digest_of(source: str) -> str:
    """What tells the text of a module from another one."""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def sample(root: Path, path: str, count: int | None, seed: int) -> list[Mutant]:
    """At most `count` mutants of the module, all places being equally likely; with None, one mutant for every place.

    At most one change of each kind is chosen for a place: eleven operators stand for one ``+``.
    """
    places: dict[tuple[Position, str], list[Mutant]] = defaultdict(list)
    source = (root / path).read_text(encoding="utf-8")
    for position, mutant in _candidates(path, source):
        places[position, _family(mutant.operator)].append(mutant)
    chooser = random.Random(f"{seed}:{path}")
    chosen = [chooser.choice(group) for _, group in sorted(places.items())]
    chooser.shuffle(chosen)
    kept: list[Mutant] = []
    for mutant in chosen:
        if count is not None and len(kept) == count:
            break
        if _compiles(mutant.apply(source)):
            kept.append(mutant)
    return sorted(kept, key=lambda mutant: (mutant.line, mutant.operator, mutant.occurrence))


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _candidates(path: str, source: str) -> Iterator[tuple[Position, Mutant]]:
    nodes = list(ast_nodes(get_ast(source)))
    ignored = list(_ignored(ast.parse(source)))
    digest = digest_of(source)
    for name in (*OWN_OPERATORS, *cosmic_ray.plugins.operator_names()):
        if SAME_ON_OBJECTS.search(name) or _class(name).arguments():
            continue
        operator = _operator(name)
        places = ((node, start) for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, (node, start) in enumerate(places):
            is_signature = getattr(node.parent, "type", "") == "parameters"  # the star before keyword-only parameters
            if not is_signature and not any(first <= start < last for first, last in ignored):
                yield start, Mutant(path, name, occurrence, start[0], digest)


def _ignored(tree: ast.AST) -> Iterator[tuple[Position, Position]]:
    """What no test has to notice: annotations, unions of types, messages of errors, caches."""
    for node in ast.walk(tree):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            parts.append(node.annotation)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and _is_type(node):
            parts.append(node)
        elif isinstance(node, ast.FunctionDef):
            parts.append(node.returns)
            parts += [each for each in node.decorator_list if any(word in ast.unparse(each) for word in CACHES)]
        elif isinstance(node, ast.Raise):
            parts.append(node.exc)
        for part in parts:
            if part is not None:
                # A decorator begins one column before its expression.
                first, last = (part.lineno, part.col_offset - 1), (part.end_lineno or 0, part.end_col_offset or 0)
                yield first, last


def _is_type(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_type(node.left) and _is_type(node.right)
    name = ast.unparse(node).rpartition(".")[2].partition("[")[0]
    return (
        name in ("None", "Callable")
        or isinstance(getattr(builtins, name, None), type)
        or re.fullmatch(r"[A-Z]\w*[a-z]\w*", name) is not None
    )


def _family(operator: str) -> str:
    return re.sub(r"(Operator|Binary)_.*", r"\1", operator)


def _class(name: str) -> type[Operator]:
    return OWN_OPERATORS.get(name) or cosmic_ray.plugins.get_operator(name)


def _operator(name: str) -> Operator:
    return _class(name)()


def _is_removable(statement: Any) -> bool:
    if statement.type in ("raise_stmt", "atom_expr", "del_stmt"):
        return True
    if statement.type != "expr_stmt":
        return False
    target, assignment = statement.children[0], statement.children[1]
    is_augmented = assignment.type == "operator" and assignment.value not in ("=", ":")
    return is_augmented or (target.type == "atom_expr" and getattr(assignment, "value", "") == "=")


def _text(text: str, instead_of: Any) -> Any:
    first = instead_of.get_first_leaf()
    return parso.python.tree.Name(text, first.start_pos, prefix=first.prefix)
