"""Safe reading and atomic writing of YAML documents."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from graphpress.ir.files import FileError, write_file
from graphpress.passes.config.errors import ArgumentError, SpecError

Source = str | Path | IO[str] | IO[bytes]
"""A YAML document: text (anything with a line break or a colon and a space), a path, or an open stream."""

_MOST_NODES = 10_000
_INTEGER = "tag:yaml.org,2002:int"
_MOST_DIGITS = 4300  # as Python reads at most


def read(source: Source) -> Mapping[str, Any]:
    """Read the top level of a YAML document.

    Raises:
        SpecError: when the file is missing, the text is no YAML, has a key twice, or is no dictionary at its top.
    """
    text, where = _text(source)
    data = parse(text, where)
    if not isinstance(data, Mapping):
        raise SpecError(f"{where} has {data!r} at its top, not a dictionary")
    return data


def parse(text: str, where: str = "the text") -> Any:
    """Read YAML text of any type; `where` names it in errors.

    Raises:
        SpecError: when it is no YAML, has a key twice, or its aliases repeat far more than the text has.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            _check_size(root, _MOST_NODES + len(text))
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ArithmeticError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise SpecError(f"{where} is not valid YAML: {error}") from None


@contextmanager
def reading(source: Source) -> Iterator[Mapping[str, Any]]:
    """Yield the result of `read`; errors in the body name the file."""
    data = read(source)
    try:
        yield data
    except SpecError as error:
        if _is_text(source):
            raise
        raise error.in_file(_name_of(source)) from None


def write(data: Mapping[str, Any], path: str | Path | None = None) -> str:
    """The YAML text of plain data, keys in their order, also written to `path` if there is one.

    Raises:
        SpecError: when nothing can be written at `path`.
    """
    text: str = yaml.safe_dump(data, sort_keys=False, default_flow_style=None)
    if path is None:
        return text
    try:
        write_file(path, text)
    except FileError as error:
        raise SpecError(f"{str(path)!r} cannot be written: {error.reason}") from None
    return text


def section(data: Mapping[str, Any], keys: tuple[str, ...]) -> Mapping[str, Any]:
    """The section under one of `keys` at the top of a document; an empty one is an empty dictionary.

    Raises:
        SpecError: when none or several of the keys are there, or the section is no dictionary.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"{data!r} is not a dictionary with the key {keys[0]!r}")
    present = [key for key in keys if key in data]
    if not present:
        found = [str(key) for key in data]
        raise ArgumentError(f"no {keys[0]!r} at the top, only {', '.join(map(repr, found)) or 'nothing'}")
    if len(present) > 1:
        raise ArgumentError(f"{' and '.join(map(repr, present))} mean the same; keep one of them")
    body = data[present[0]]
    if body is not None and not isinstance(body, Mapping):
        raise SpecError(f"{body!r} is not a dictionary", present[0])
    return body or {}


def _text(source: Source) -> tuple[str, str]:
    if isinstance(source, str) and _is_text(source):
        return source, "the text"
    path = _name_of(source)
    if not isinstance(source, str | Path) and not hasattr(source, "read"):
        raise SpecError(f"a {type(source).__name__} is no YAML document; accepted: text, a path, or an open stream")
    try:
        content = Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
        return content if isinstance(content, str) else content.decode("utf-8"), path
    except UnicodeDecodeError as error:
        raise SpecError(f"{path!r} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise SpecError(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _name_of(source: Source) -> str:
    """The path of a document, or the name of a stream."""
    return str(source if isinstance(source, str | Path) else getattr(source, "name", "the stream"))


def _is_text(source: Source) -> bool:
    return isinstance(source, str) and ("\n" in source or ": " in source or source.rstrip().endswith(":"))


def _check_size(root: yaml.Node, most: int) -> None:
    """Check that the nodes under `root`, with each alias replaced by its nodes, are at most `most`, without cycles."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting[-1]
        if id(node) in sizes:
            waiting.pop()
            continue
        parts = _parts(node)
        if id(node) in open_nodes:  # the parts are counted
            waiting.pop()
            size = sizes[id(node)] = 1 + sum(sizes[id(part)] for part in parts)
            if size > most:
                raise yaml.MarkedYAMLError(
                    problem=f"its aliases repeat more than {most} nodes", problem_mark=node.start_mark
                )
            open_nodes.remove(id(node))
            continue
        if node.tag == _INTEGER and len(node.value) > _MOST_DIGITS:
            raise yaml.MarkedYAMLError(problem="the number is too long", problem_mark=node.start_mark)
        open_nodes.add(id(node))
        for part in parts:
            if id(part) in open_nodes:
                raise yaml.MarkedYAMLError(problem="an alias refers to itself", problem_mark=part.start_mark)
            waiting.append(part)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    return [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key!r} is a duplicate key", problem_mark=key_node.start_mark)
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping
