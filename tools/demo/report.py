"""The report of the demo, and the page of the joint pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn.functional import interpolate

from graphpress import pipelines
from graphpress.ir import from_module
from graphpress.ir.files import write_atomically, write_file
from graphpress.passes.framework import Runner
from graphpress.tools.demo.measuring import Pair, Result
from graphpress.tools.demo.rows import joint_configs
from graphpress.tools.passctl.page import Recording, page


def write_page(path: Path, model: nn.Module, image: torch.Tensor) -> None:
    """Run the joint pipeline with the configs of the demo's last row on `model`, and write its page.

    Args:
        path: the page.
        model: the model; it is not changed.
        image: an example input, `(batch, channels, height, width)`.
    """
    graph = from_module(model, (image,))
    recording = Recording(graph)
    Runner([recording]).run(graph, pipelines.joint(*joint_configs()), in_place=True)
    text = page(recording, "EDSR, palettized and quantized", "joint")
    write_file(path, text)


_CAPTION = 16  # pixels


def table_rows(results: Sequence[Result], bicubic: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Return table rows: name, PSNR, drop from float, stored weights, ratio, largest error in the runtime, seconds."""
    reference = results[0]
    rows: list[tuple[str, ...]] = [("bicubic", f"{sum(bicubic.values()) / len(bicubic):.2f} dB", "", "", "", "", "")]
    for result in results:
        drop = reference.mean_psnr - result.mean_psnr
        ratio = reference.weight_bytes / result.weight_bytes
        rows.append(
            (
                result.row.name,
                f"{result.mean_psnr:.2f} dB",
                "" if result is reference else f"{drop:.2f} dB",
                f"{result.weight_bytes / 1e6:.2f} MB",
                f"{ratio:.1f}x",
                f"{result.asset_error:.1e}",
                f"{sum(result.seconds.values()):.1f} s",
            )
        )
    return rows


HEADINGS = ("model", "PSNR", "drop", "weights in the asset", "smaller", "asset against module", "time")


def package_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return table rows for Core ML: name, PSNR, difference from the module's, stored weights, largest error."""
    return [
        (
            result.row.name,
            f"{result.package.mean_psnr:.2f} dB",
            f"{abs(result.package.mean_psnr - result.mean_psnr):.4f} dB",
            f"{result.package.weight_bytes / 1e6:.2f} MB",
            f"{result.package.error:.1e}",
        )
        for result in results
    ]


PACKAGE_HEADINGS = ("model", "PSNR", "differs by", "weights in the package", "package against module")


def write_strip(path: Path, pair: Pair, columns: Mapping[str, torch.Tensor], crop: int = 128) -> None:
    """Write a PNG of captioned center crops of one photograph, one per column, at most `crop` pixels a side."""
    _, low, high = pair
    size = high.shape[-2:]
    crop = min(crop, *size)
    shown = {"input": interpolate(low, size=size, mode="nearest"), **columns, "original": high}
    top, left = (size[0] - crop) // 2, (size[1] - crop) // 2
    strip = Image.new("RGB", (len(shown) * (crop + 4) - 4, crop + _CAPTION), "white")
    draw = ImageDraw.Draw(strip)
    for place, (caption, image) in enumerate(shown.items()):
        pixels = image[0, :, top : top + crop, left : left + crop].clamp(0, 1).mul(255).round().byte()
        strip.paste(
            Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())), (place * (crop + 4), _CAPTION)
        )
        draw.text((place * (crop + 4) + 2, 2), caption, fill="black")
    write_atomically(path, lambda target: strip.save(target, format="PNG"))


def write_report(
    path: Path, results: Sequence[Result], bicubic: Mapping[str, float], strip: Path, pipeline_page: Path
) -> None:
    """Write the report, with links to `strip` and `pipeline_page` beside it."""
    lines = [
        "# EDSR, compressed",
        "",
        "A super-resolution network (arXiv 1707.02921, 16 blocks, 64 features, 2x), from PyTorch to assets of the",
        "Core AI runtime. Scored on photographs it never saw; PSNR over RGB, two pixels shaved.",
        "",
        _markdown(HEADINGS, table_rows(results, bicubic)),
        "",
        f"![Input, bicubic, and the models]({strip.name})",
        "",
        "W8A8: int8 weights per channel, int8 activations. P4A8: 4-bit weights by a table of int8 entries,",
        "int8 activations.",
        '"Asset against module" is the largest difference between the saved asset, executed by the runtime, and the',
        "finalized module, as a part of the output's range.",
        "",
        f"[What each pass of the joint pipeline does to the model]({pipeline_page.name}): a page for a browser.",
        "",
        "## The same as packages of Core ML",
        "",
        _markdown(PACKAGE_HEADINGS, package_rows(results)),
        "",
        "Core ML predicts on Apple's systems only, so each package is read back from its file and evaluated by the",
        "interpreter of the IR, on every photograph.",
        "",
        "## PSNR by image",
        "",
        _by_image(results, bicubic),
        "",
        "## Seconds by stage",
        "",
        _by_stage(results),
        "",
        "## Files",
        "",
        *(f"- `{result.path.name}`: {result.file_bytes:,} bytes on disk" for result in results),
        *(f"- `{r.package.path.name}`: {r.package.file_bytes:,} bytes on disk" for r in results),
        "",
    ]
    write_file(path, "\n".join(lines))


def _by_image(results: Sequence[Result], bicubic: Mapping[str, float]) -> str:
    headings = ("image", "bicubic", *(result.row.name for result in results))
    rows = [
        (name, f"{score:.2f}", *(f"{result.psnr[name]:.2f}" for result in results)) for name, score in bicubic.items()
    ]
    return _markdown(headings, rows)


def _by_stage(results: Sequence[Result]) -> str:
    stages = list(dict.fromkeys(stage for result in results for stage in result.seconds))
    rows = [
        (result.row.name, *(f"{result.seconds[s]:.2f}" if s in result.seconds else "" for s in stages))
        for result in results
    ]
    return _markdown(("model", *stages), rows)


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
