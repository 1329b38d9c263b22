"""The quick subset: small architectures of all families that work, and must go on working."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from graphpress.ir.errors import GraphpressError
from graphpress.tools.zoo.running import Results, Runner

WORKING = ("capture", "text", "w8a8", "coreai:w8a8", "p4")
MODELS = (
    "llama",
    "qwen3",
    "bert",
    "t5",
    "vit",
    "resnet",
    "timm mobilenetv2_035",
    "lstm tagger",
    "text recogniser",
    "wavenet",
    "autoencoder",
    "super resolution",
    "cross attention",
    "squeeze excite",
    "graph convolution",
)


class BrokenZooError(GraphpressError):
    """An architecture that is listed as working does not work."""


def check(results: Results, version: str) -> None:
    """Run the subset, two at once.

    Raises:
        BrokenZooError: naming every stage that fails.
    """

    def run(model: str) -> list[str]:
        records = Runner("ours", results, version).run(model, WORKING)
        return [f"{model}, {each['stage']}: {each['error']}" for each in records if each["status"] != "ok"]

    with ThreadPoolExecutor(2) as pool:
        broken = [line for lines in pool.map(run, MODELS) for line in lines]
    if broken:
        raise BrokenZooError(f"{len(broken)} stages fail:\n" + "\n".join(broken))
