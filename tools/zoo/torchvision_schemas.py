"""Schemas of the torchvision operators without which `import torchvision` fails.

The wheels of the package index are linked against another build of torch than the one for CPUs, so that their library
does not load, and torchvision fails at its import, where it gives `nms` and `qnms` shape functions. timm needs only the
image transforms of torchvision. Once these schemas are declared, both can be imported; calling one of the operators
still is an error of torch.
"""

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: list[torch.library.Library] = []


def declare() -> None:
    """Declare the operators, once in a process, unless torchvision's library has done so."""
    if _library or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _library.append(library)
