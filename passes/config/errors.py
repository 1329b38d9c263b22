"""Errors in specs and configs, with their paths."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from graphpress.ir.errors import GraphpressError
from graphpress.ir.plain import PlainError, join_path


class SpecError(PlainError):
    """An impossible value in a spec or a config.

    Attributes:
        file: the file that holds it, if any.
    """

    def __init__(self, problem: str, path: str = "", file: str = ""):
        super().__init__(problem, path)
        self.args = (problem, path, file)
        self.file = file

    def __str__(self) -> str:
        return f"{self.file}: {super().__str__()}" if self.file else super().__str__()

    def under(self, key: Hashable) -> Self:
        """The same error with `key` prefixed to its path."""
        return type(self)(self.problem, join_path(key, self.path), self.file)

    def in_file(self, file: str) -> Self:
        """The same error, in an object that was read from `file`."""
        return type(self)(self.problem, self.path, file)


class ArgumentError(SpecError, TypeError):
    """An unknown, missing or surplus argument or dictionary key of a spec or config."""


class AxisError(SpecError):
    """An axis that is out of range, or omitted without a known default."""


class BlockSizeError(GraphpressError, ValueError):
    """A block or group size that does not divide its axis.

    Attributes:
        parameter: name of the tensor, such as ``conv1.weight``.
        shape: its shape.
        axis: the axis, counted from the front.
        size: the size asked for.
        option: the option that asked for it, ``block_size`` or ``group_size``.
    """

    def __init__(self, parameter: str, shape: tuple[int, ...], axis: int, size: int, option: str):
        super().__init__(parameter, shape, axis, size, option)
        self.parameter, self.shape, self.axis, self.size, self.option = parameter, shape, axis, size, option

    @property
    def working_sizes(self) -> tuple[int, ...]:
        """Every size that divides the axis, ascending."""
        extent = self.shape[self.axis]
        return tuple(size for size in range(1, extent + 1) if extent % size == 0)

    @property
    def explanation(self) -> str:
        """The size and axis that do not divide, and the nearest sizes that do."""
        sizes = sorted(self.working_sizes, key=lambda size: abs(size - self.size))[:8]
        return (
            f"{self.option}={self.size} does not divide axis {self.axis} of size {self.shape[self.axis]}; these do: "
            f"{', '.join(map(str, sorted(sizes)))}"
        )

    def __str__(self) -> str:
        return f"{self.parameter} of shape {self.shape}: {self.explanation}"
