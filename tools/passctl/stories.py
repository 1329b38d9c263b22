"""What there is to say about a value and its quantizers, in words and as plain data."""

from __future__ import annotations

from attrs import frozen


@frozen
class UseStory:
    """One place where a value is made or read.

    Attributes:
        place: such as ``relu_1 result`` or ``conv2d_2 input``.
        where: module path and source line.
        quantizer: the name of its quantizer; None where it is not quantized.
        source: the entry of the config that decided.
        reason: why it is not quantized.
    """

    place: str
    where: str
    quantizer: str | None = None
    source: str = ""
    reason: str = ""

    def __str__(self) -> str:
        what = f"quantized by {self.quantizer!r}, asked for by {self.source}" if self.quantizer else self.reason
        return f"{self.place}: {what}\n    {self.where}"


@frozen
class QuantizerStory:
    """One quantizer and all that share it.

    Attributes:
        name: unique in the graph.
        spec: how it quantizes, in words.
        source: the entry of the config that decided for all.
        decider: the place that entry was asked at.
        members: every place that shares it, and what the config asked for there, passive ones apart.
        chain: from the value to the decider, from place to place; the next one is about the same value, or on the other
            side of an op that only moves values.
        remark: what became of a range that is known.
    """

    name: str
    spec: str
    source: str
    decider: str
    members: tuple[str, ...]
    chain: tuple[str, ...]
    remark: str = ""

    def __str__(self) -> str:
        lines = [f"quantizer {self.name!r}: {self.spec}", f"  decided by {self.source} at {self.decider}"]
        if self.remark:
            lines.append(f"  {self.remark}")
        if len(self.chain) > 1:
            lines.append(f"  through {' -> '.join(self.chain)}")
        if len(self.members) > 1:
            lines.append(f"  shared by {len(self.members)}:")
            lines += [f"    {member}" for member in self.members]
        return "\n".join(lines)


@frozen
class ValueStory:
    """A value, its fusion group, where it is made and read, and its quantizers."""

    name: str
    type: str
    group: str
    uses: tuple[UseStory, ...]
    quantizers: tuple[QuantizerStory, ...]

    @property
    def is_quantized(self) -> bool:
        """True when it is quantized anywhere."""
        return bool(self.quantizers)

    def __str__(self) -> str:
        verdict = "quantized" if self.is_quantized else "not quantized"
        lines = [f"{self.name}: {self.type} is {verdict}", *([self.group] if self.group else [])]
        return "\n".join([*lines, *map(str, self.uses), *map(str, self.quantizers)])
