"""Time weight clustering relative to a lower bound, and compare its error with the optimum.

Run as ``python -m graphpress.tools.bench.clustering``. The lower bound is one sort and one assignment pass. Times are
CPU seconds on one thread. Weights are random and heavy-tailed (Student's t with 5 degrees of freedom), in the layer
shapes of ResNet-50 and of a 12-layer GPT. The optimum is computed by the `kmeans1d` package on a few layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import click
import numpy as np

from graphpress.passes.clustering import Clusters, GroupedClusters, assign_scalar, cluster_groups, cluster_vectors

P = ParamSpec("P")
T = TypeVar("T")

GROUP = 16
MOST_ORACLE_WORK = 10_000_000
Shapes = list[tuple[int, int]]


@click.command()
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", help="Of the weights.")
@click.option("--oracle/--no-oracle", default=True, help="Also compare the error with the exact optimum.")
def main(dtype: str, oracle: bool) -> None:
    """Print seconds per setting, the lower bound, and the error relative to the optimum."""
    for name, shapes in (("ResNet-50", resnet50()), ("GPT, 12 layers", gpt())):
        weights = random_weights(shapes, dtype)
        size = sum(weight.size for weight in weights)
        cluster_groups(weights[0][:2], 4)  # load or compile
        print(f"{name}: {len(weights)} layers, {size / 1e6:.1f}M weights, {dtype}")
        floor_sort, _ = timed(sort_all, weights)
        print(f"  {'np.sort':28s} {floor_sort:7.3f} s")
        for bits, grouped in ((4, False), (4, True), (6, True), (8, False)):
            rows = [grouped_rows(weight) if grouped else weight.reshape(1, -1) for weight in weights]
            label = f"{bits} bits, " + (f"groups of {GROUP}" if grouped else "per tensor")
            elapsed, results = timed(cluster_all, rows, 1 << bits)
            assigned, _ = timed(assign_all, rows, results)
            ratio = f"   error / optimum {optimum_ratio(rows, results, 1 << bits):.6f}" if oracle else ""
            over = elapsed / (floor_sort + assigned)
            print(f"  {label:28s} {elapsed:7.3f} s   assignment {assigned:.3f} s   {over:5.2f} x floor{ratio}")
    layers = [weight.reshape(-1, 2) for weight in random_weights([(64, 576)] * 40, dtype)]
    for k in (16, 256):
        cluster_vectors(layers[0], k, 0)
        elapsed, _ = timed(cluster_all_vectors, layers, k)
        print(f"EDSR, 40 layers of 64 x 576: {k} vectors of 2 {elapsed:7.3f} s")


def timed(run: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> tuple[float, T]:
    """Return the CPU seconds and the result of `run`."""
    start = time.process_time()
    result = run(*arguments, **options)
    return time.process_time() - start, result


def sort_all(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Sort the values of each of `weights`."""
    return [np.sort(weight, axis=None) for weight in weights]


def cluster_all(layers: Sequence[np.ndarray], k: int) -> list[GroupedClusters]:
    """Cluster the rows of each layer into `k` scalars."""
    return [cluster_groups(rows, k) for rows in layers]


def assign_all(layers: Sequence[np.ndarray], results: Sequence[GroupedClusters]) -> list[np.ndarray]:
    """Assign the values of each layer to its centroids."""
    return [assign_scalar(rows, result.centroids) for rows, result in zip(layers, results, strict=True)]


def cluster_all_vectors(layers: Sequence[np.ndarray], k: int) -> list[Clusters]:
    """Cluster the vectors of each layer into `k`."""
    return [cluster_vectors(vectors, k, 0) for vectors in layers]


def random_weights(shapes: Shapes, dtype: str) -> list[np.ndarray]:
    """Return one matrix of output channels per shape, float32 or float16."""
    generator = np.random.default_rng(0)
    return [(generator.standard_t(5, shape) * 0.02).astype(dtype) for shape in shapes]


def grouped_rows(weight: np.ndarray) -> np.ndarray:
    """Return the weights of every `GROUP` output channels as one row, without an incomplete group."""
    groups = len(weight) // GROUP
    return weight[: groups * GROUP].reshape(groups, -1)


def optimum_ratio(rows: list[np.ndarray], results: list[GroupedClusters], k: int) -> float:
    """Return the largest ratio of the error to the optimum among a few smaller layers, or NaN without any."""
    import kmeans1d

    small = [place for place, row in enumerate(rows) if row.shape[1] * k <= MOST_ORACLE_WORK]
    worst = 0.0 if small else float("nan")
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
