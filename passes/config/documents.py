"""Safe reading and atomic writing of YAML documents."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from graphpress.ir.files import FileError, write_file
from graphpress.passes.config.errors import ArgumentError, SpecError


def read(source: str | Path) -> Mapping[str, Any]:
    """Read the top level of a YAML document: a path, or text (anything with a line break or a colon and a space).

    Raises:
        SpecError: when the file is missing, the text is no YAML, has a key twice, or is no dictionary at its top.
    """
    text, where = _text(source)
    try:
        data = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # numbers, dates, keys, nesting
        raise SpecError(f"{where} is not valid YAML: {error}") from None
    if not isinstance(data, Mapping):
        raise SpecError(f"{where} has {data!r} at its top, not a dictionary")
    return data


@contextmanager
def reading(source: str | Path) -> Iterator[Mapping[str, Any]]:
    """Yield the result of `read`; errors in the body name the file."""
    data = read(source)
    try:
        yield data
    except SpecError as error:
        if _is_text(source):
            raise
        raise error.in_file(str(source)) from None


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


def _text(source: str | Path) -> tuple[str, str]:
    if _is_text(source):
        return str(source), "the text"
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except UnicodeDecodeError as error:
        raise SpecError(f"{str(path)!r} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise SpecError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _is_text(source: str | Path) -> bool:
    return isinstance(source, str) and ("\n" in source or ": " in source or source.rstrip().endswith(":"))


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
