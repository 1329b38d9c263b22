"""Time weight clustering against its floor, one sort and one assignment pass, and its error against the optimum.

Run as ``python -m graphpress.tools.bench.clustering``. Times are processor seconds, and all of it runs on one thread.
Weights are random with heavy tails (Student's t with 5 degrees of freedom), in the shapes of the layers of ResNet-50
and of a 12-layer GPT. The optimum is that of the `kmeans1d` package, on a few layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import numpy as np

from graphpress.passes.clustering import assign_scalar, cluster_groups, cluster_vectors

GROUP = 16
Shapes = list[tuple[int, int]]


@click.command()
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", help="Of the weights.")
@click.option("--oracle/--no-oracle", default=True, help="Also compare the error with the exact optimum.")
def main(dtype: str, oracle: bool) -> None:
    """Print seconds per setting, the floor beside them, and the error relative to the optimum."""
    for name, shapes in (("ResNet-50", resnet50()), ("GPT, 12 layers", gpt())):
        weights = random_weights(shapes, dtype)
        size = sum(weight.size for weight in weights)
        cluster_groups(weights[0][:2], 4)  # load or compile
        print(f"{name}: {len(weights)} layers, {size / 1e6:.1f}M weights, {dtype}")
        floor_sort = seconds(lambda weights=weights: [np.sort(weight, axis=None) for weight in weights])
        print(f"  {'np.sort':28s} {floor_sort:7.3f} s")
        for bits, grouped in ((4, False), (4, True), (6, True), (8, False)):
            rows = [grouped_rows(weight) if grouped else weight.reshape(1, -1) for weight in weights]
            label = f"{bits} bits, " + (f"groups of {GROUP}" if grouped else "per tensor")
            results = []
            elapsed = seconds(
                lambda rows=rows, bits=bits, results=results: results.extend(
                    cluster_groups(row, 1 << bits) for row in rows
                )
            )
            assigned = seconds(
                lambda rows=rows, results=results: [
                    assign_scalar(row, result.centroids) for row, result in zip(rows, results, strict=True)
                ]
            )
            ratio = f"   error / optimum {optimum_ratio(rows, results, 1 << bits):.6f}" if oracle else ""
            over = elapsed / (floor_sort + assigned)
            print(f"  {label:28s} {elapsed:7.3f} s   assignment {assigned:.3f} s   {over:5.2f} x floor{ratio}")
    layers = [weight.reshape(-1, 2) for weight in random_weights([(64, 576)] * 40, dtype)]
    for k in (16, 256):
        cluster_vectors(layers[0], k, 0)
        elapsed = seconds(lambda k=k: [cluster_vectors(layer, k, 0) for layer in layers])
        print(f"EDSR, 40 layers of 64 x 576: {k} vectors of 2 {elapsed:7.3f} s")


def seconds(run: Callable[[], object]) -> float:
    """Return how many processor seconds `run` takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def random_weights(shapes: Shapes, dtype: str) -> list[np.ndarray]:
    """Return one matrix of output channels per shape, float32 or float16."""
    generator = np.random.default_rng(0)
    return [(generator.standard_t(5, shape) * 0.02).astype(dtype) for shape in shapes]


def grouped_rows(weight: np.ndarray) -> np.ndarray:
    """Return the weights of every `GROUP` output channels as one row; what is left over as part of no group."""
    groups = len(weight) // GROUP
    return weight[: groups * GROUP].reshape(groups, -1)


def optimum_ratio(rows: list[np.ndarray], results: list, k: int) -> float:
    """Return the largest ratio of errors to optimal ones among a few rows of at most 40,000 values."""
    import kmeans1d

    small = [place for place, row in enumerate(rows) if row.shape[1] <= 40_000]
    worst = 0.0
    for place in small[:: max(1, len(small) // 4)]:
        values = rows[place][0].astype(np.float64)
        labels, centroids = kmeans1d.cluster(values, k)
        optimum = ((values - np.array(centroids)[labels]) ** 2).sum()
        worst = max(worst, float(results[place].sse[0] / optimum))
    return worst


def resnet50() -> Shapes:
    """Return (output channels, weights per channel) of the convolutions and the classifier of ResNet-50."""
    shapes = [(64, 147)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, channels), (width, 9 * width), (4 * width, width)]
            if block == 0:
                shapes.append((4 * width, channels))
            channels = 4 * width
    return [*shapes, (1000, 2048)]


def gpt(width: int = 768, layers: int = 12) -> Shapes:
    """Return (output channels, weights per channel) of the linear layers of a GPT, without its embeddings."""
    layer = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    return layer * layers + [(8192, width)]


if __name__ == "__main__":
    main()
