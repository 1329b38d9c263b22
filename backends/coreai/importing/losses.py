"""What an asset has that a graph of it does not."""

from __future__ import annotations

from os import PathLike

from graphpress.backends.coreai.asset import read


def losses(path: str | PathLike[str]) -> list[str]:
    """What is lost when the asset at `path` is read and converted again, in words; empty when nothing is.

    Raises:
        AssetError: when there is no asset, or it is damaged.
    """
    info = read(path)
    found = [f"the function {each.name}" for each in info.functions if each.name != "main"]
    for function in info.functions:
        found += [f"the free extents of {each.name}" for each in function.inputs if None in each.shape]
        found += [f"the state {each.name}" for each in function.states]
    return found
