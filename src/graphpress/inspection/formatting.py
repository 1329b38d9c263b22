"""A summary as text: a tree, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator

from graphpress.inspection.summary import ModelSummary, ModuleInfo, OpInfo

_BOLD, _DIM, _CYAN, _GREEN, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[32m", "\x1b[0m"


def format_tree(summary: ModelSummary, colorize: bool) -> str:
    """Modules with their types, and under each its ops: name, type, what it reads, source."""

    def paint(text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if colorize and text else text

    def op_line(op: OpInfo) -> str:
        type_ = "" if op.op_name.rpartition(".")[2] == op.op_type else f" {paint(op.op_type, _CYAN)}"
        reads = paint(f"({', '.join(op.inputs)})", _DIM)
        source = f"  {paint(op.source, _DIM)}" if op.source else ""
        return f"{paint(op.op_name, _GREEN)}{type_}{reads}{source}"

    def lines(module: ModuleInfo, indent: str) -> Iterator[str]:
        entries: list[tuple[str, ModuleInfo | None]] = [(op_line(op), None) for op in module.ops]
        for name, child in module.named_children():
            entries.append((f"{paint(name, _BOLD)} {paint(child.type_name, _DIM)}".rstrip(), child))
        for place, (text, below) in enumerate(entries):
            is_last = place == len(entries) - 1
            yield f"{indent}{'└─ ' if is_last else '├─ '}{text}"
            if below is not None:
                yield from lines(below, indent + ("   " if is_last else "│  "))

    root = summary.model
    count = len(root.all_ops())
    head = f"{paint(root.type_name or 'model', _BOLD)}: {count} op{'' if count == 1 else 's'}"
    return "\n".join([head, *lines(root, "")])
