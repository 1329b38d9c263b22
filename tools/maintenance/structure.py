"""Measure the structure of the repository: ``python -m graphpress.tools.maintenance.structure``.

Prints files and lines by folder, files that are too short, circles of imports (those inside functions count, those for
type checkers do not), and which files are homes of each concept that must have one. Exit code 1 for a circle.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx
from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "ir": "graphpress.ir",
    "passes": "graphpress.passes",
    "backends": "graphpress.backends",
    "src/graphpress": "graphpress",
    "tools": "graphpress.tools",
}
SHORT = 40
HOMES = {
    "which weights a config means": r"\.explain_state\(",
    "installing computed parameters": r"\bset_form\(",
    "the stored form for Core AI": r"def (stored_for_coreai|store)\b",
    "the metadata form for coremltools": r"def (stored_for_coreml|store_described)\b",
    "memory-mapped tensors": r"torch\.from_file\(|np\.memmap|load_file\(path\)",
    "plain data and back": r"def (to_plain|from_plain|plain_object|fit_value)\(",
    "warning of skipped weights": r"WholeWeightsWarning\(|WholeWeightsWarning, stacklevel|are left whole",
    "replacing a file at once": r"os\.replace|renameat2|os\.rename\(",
}
"""Concepts that must have one home, and what is written where one is implemented."""


@frozen
class Module:
    """A file of the repository as the module it is imported as."""

    name: str
    path: Path
    text: str

    @property
    def lines(self) -> int:
        """Its lines, blank ones included."""
        return len(self.text.splitlines())

    @property
    def is_face(self) -> bool:
        """True for the `__init__.py` of a package."""
        return self.path.name == "__init__.py"


def modules() -> dict[str, Module]:
    """All modules but tests, by name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted(_files(ROOT / folder)):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found[name] = Module(name, path, path.read_text(encoding="utf-8"))
    return found


def _files(folder: Path) -> Iterator[Path]:
    """The Python files below `folder`, links not followed."""
    for path in folder.iterdir():
        if path.is_symlink() or path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.suffix == ".py":
            yield path


def import_graph(known: Mapping[str, Module]) -> nx.DiGraph:
    """Which module imports which, at its top or inside a function."""
    graph = nx.DiGraph()
    graph.add_nodes_from(known)
    for module in known.values():
        for target in _imports(ast.parse(module.text), known):
            for imported in (target, *_packages(target)):
                # A package's own modules find it half imported, which is no circle as long as it only hands names on.
                if imported != module.name and not module.name.startswith(f"{imported}.") and imported in known:
                    graph.add_edge(module.name, imported)
    return graph


def _packages(name: str) -> list[str]:
    """The packages that `name` lies in, which are imported before it."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(2, len(parts))]


def _imports(tree: ast.AST, known: Mapping[str, Module]) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        else:
            yield from _imports(node, known)


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """The shortest circle of each group of modules that import each other."""
    found = []
    for group in nx.strongly_connected_components(graph):
        if len(group) > 1:
            found.append(min((nx.find_cycle(graph.subgraph(group), node) for node in sorted(group)), key=len))
    return [[edge[0] for edge in circle] for circle in found]


def main() -> int:
    """Print the measures."""
    known = modules()
    by_folder: dict[str, list[Module]] = defaultdict(list)
    for module in known.values():
        by_folder[str(module.path.relative_to(ROOT).parent)].append(module)
    for folder, group in sorted(by_folder.items()):
        print(f"{folder:42} {len(group):4} files {sum(each.lines for each in group):7} lines")
    lines = sum(module.lines for module in known.values())
    print(f"{'all':42} {len(known):4} files {lines:7} lines, {lines / len(known):.0f} a file")
    short = [module for module in known.values() if module.lines < SHORT and not module.is_face]
    print(f"\nfiles under {SHORT} lines: {len(short)}")
    for module in short:
        print(f"  {module.path.relative_to(ROOT)} ({module.lines})")
    print("\nhomes of concepts")
    for concept, pattern in HOMES.items():
        homes = [str(each.path.relative_to(ROOT)) for each in known.values() if re.search(pattern, each.text)]
        homes = [home for home in homes if "maintenance" not in home]
        print(f"  {concept:34} {len(homes)}: {', '.join(homes)}")
    found = circles(import_graph(known))
    print(f"\ncircles of imports: {len(found)}")
    for circle in found:
        print("  " + " -> ".join([*circle, circle[0]]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
