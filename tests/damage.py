"""Files that were cut short, or lost or changed some of their bits."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen
from hypothesis import strategies as st


@frozen
class Damage:
    """What becomes of a file.

    Attributes:
        how: as said in a report.
        file: of the folder it is in.
        content: what it holds afterwards.
    """

    how: str
    file: Path
    content: bytes

    def apply(self, folder: Path) -> None:
        """Damage the file in `folder`."""
        (folder / self.file).write_bytes(self.content)

    def __repr__(self) -> str:
        return f"{self.file}: {self.how}"


def damages(folder: Path) -> st.SearchStrategy[Damage]:
    """Any file in `folder` cut at any byte, with any bit flipped, or with any few bytes written over."""
    contents = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    @st.composite
    def build(draw: st.DrawFn) -> Damage:
        file = draw(st.sampled_from(list(contents)))
        whole = contents[file]
        at = draw(st.integers(0, len(whole) - 1))
        kind = draw(st.sampled_from(["cut", "flip", "overwrite"]))
        if kind == "cut":
            return Damage(f"cut to {at} bytes", file, whole[:at])
        if kind == "flip":
            bit = draw(st.integers(0, 7))
            flipped = bytes([whole[at] ^ (1 << bit)])
            return Damage(f"bit {bit} of byte {at} flipped", file, whole[:at] + flipped + whole[at + 1 :])
        written = draw(st.binary(min_size=1, max_size=64) | st.integers(1, 64).map(bytes))[: len(whole) - at]
        how = f"{len(written)} bytes from {at} on overwritten by {written!r}"
        return Damage(how, file, whole[:at] + written + whole[at + len(written) :])

    return build()
