"""Cluster many weights, here or through an executor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeAlias

from attrs import frozen
from torch import Tensor

from graphpress.palettization.plan import PlannedWeight
from graphpress.palettization.sensitivities import Sensitivities
from graphpress.passes.palettization import PalettizedWeight, TooSmallError, palettize
from graphpress.passes.specs import BlockSizeError, PalettizationSpec

Found: TypeAlias = PalettizedWeight | TooSmallError | BlockSizeError
"""A palettized weight, or why there is none."""


def clustered(
    planned: Sequence[PlannedWeight],
    sensitivities: Sensitivities | None,
    seed: int,
    num_workers: int,
    executor: Executor | None,
) -> list[Found]:
    """What becomes of each weight, in order. Nothing random is shared, so the workers cannot change the result."""
    jobs = [
        _Job(
            weight.parameter.detach(),
            weight.spec,
            weight.op_type,
            weight.name,
            seed,
            None if sensitivities is None else sensitivities.of(weight.name, tuple(weight.parameter.shape)),
        )
        for weight in planned
    ]
    if executor is not None:
        return list(executor.map(_run, jobs))
    if num_workers == 1 or len(jobs) < 2:
        return [_run(job) for job in jobs]
    with ThreadPoolExecutor(num_workers) as threads:  # clustering runs without the interpreter lock
        return list(threads.map(_run, jobs))


@frozen(eq=False)
class _Job:
    """Arguments of `palettize`, for another process too."""

    tensor: Tensor
    spec: PalettizationSpec
    op_type: str
    name: str
    seed: int
    importance: Tensor | None


def _run(job: _Job) -> Found:
    try:
        return palettize(job.tensor, job.spec, job.op_type, name=job.name, seed=job.seed, importance=job.importance)
    except (TooSmallError, BlockSizeError) as error:
        return error
