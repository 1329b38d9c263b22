"""What can be wrong with a spec or a config, and where it says so."""

from __future__ import annotations

from typing import Self

from graphpress.ir.errors import GraphpressError


class SpecError(GraphpressError, ValueError):
    """An impossible value in a spec or a config.

    Attributes:
        problem: what is wrong, and what would be accepted.
        path: where, from the outermost object built, such as ``global_config.op_state_spec.weight.n_bits``.
        file: the file it stands in, if in one.
    """

    def __init__(self, problem: str, path: str = "", file: str = ""):
        super().__init__(problem, path, file)
        self.problem = problem
        self.path = path
        self.file = file

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.path, self.problem) if part)

    def under(self, key: str | int) -> Self:
        """The same error, seen from the object that holds the offending one under `key`."""
        return type(self)(self.problem, join_path(key, self.path), self.file)

    def in_file(self, file: str) -> Self:
        """The same error, in an object that was read from `file`."""
        return type(self)(self.problem, self.path, file)


class ArgumentError(SpecError, TypeError):
    """An argument or dictionary key that a spec or config does not take, or one that it lacks."""


class AxisError(SpecError):
    """An axis that is out of range, or one that was left out where no default is known."""


class BlockSizeError(GraphpressError, ValueError):
    """A block or group size that does not divide the axis it is laid along.

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
        """What does not divide what, and the nearest sizes that do."""
        sizes = sorted(self.working_sizes, key=lambda size: abs(size - self.size))[:8]
        return (
            f"{self.option}={self.size} does not divide axis {self.axis} of size {self.shape[self.axis]}; these do: "
            f"{', '.join(map(str, sorted(sizes)))}"
        )

    def __str__(self) -> str:
        return f"{self.parameter} of shape {self.shape}: {self.explanation}"


def join_path(key: str | int, rest: str) -> str:
    """One path from a key and what lies under it: dots between names, brackets round anything else."""
    head = key if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"
    if not rest or rest.startswith("["):
        return head + rest
    return f"{head}.{rest}"
