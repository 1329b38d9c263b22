"""Constants in files instead of memory."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph


class MappingError(GraphpressError, OSError):
    """A folder that packed weights cannot be written to."""


def map_constants(graph: Graph, folder: str | Path) -> None:
    """Write every constant of `graph` to a file of its own in `folder`, and let the graph use the mapped file.

    Raises:
        MappingError: when the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place, constant in enumerate(graph.constants.values()):
            path = folder / f"{place:05d}.safetensors"
            building = path.with_suffix(".partial")
            save_file({"data": constant.tensor.detach().contiguous()}, building)
            building.replace(path)
            constant._tensor = load_file(path)["data"]
    except (OSError, SafetensorError) as error:
        raise MappingError(f"cannot write packed weights to {folder}: {error}") from error
