"""Cluster many weights, here or through an executor that may lose workers."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Any, TypeAlias, cast

import torch
from attrs import AttrsInstance, asdict, frozen
from torch import Tensor

from graphpress.ir.errors import GraphpressError
from graphpress.modules.planning import PlannedWeight
from graphpress.palettization.calibration import Sensitivities
from graphpress.passes.config import (
    BlockSizeError,
    Indivisible,
    PalettizationSpec,
    SkippedWeight,
    SkipReason,
    cannot_be_cut,
    indivisible,
)
from graphpress.passes.weights import (
    PalettizationError,
    PalettizationWarning,
    PalettizedWeight,
    TooSmallError,
    palettize,
)

Found: TypeAlias = PalettizedWeight | TooSmallError | BlockSizeError
"""A palettized weight, or why there is none."""


@frozen(eq=False)
class SortedOut:
    """What clustering made of planned weights: the palettized ones, and the others with the reasons."""

    palettized: tuple[tuple[PlannedWeight, PalettizedWeight], ...]
    skipped: tuple[SkippedWeight, ...]


def sorted_out(planned: Sequence[PlannedWeight], found: Sequence[Found], leave_indivisible: bool | None) -> SortedOut:
    """Tell the weights that were palettized from those that are skipped.

    Raises:
        PalettizationError: for weights that groups or vectors do not divide, see `KMeansPalettizer.prepare`.
    """
    palettized, skipped, indivisible_ones = [], [], []
    for weight, result in zip(planned, found, strict=True):
        if isinstance(result, PalettizedWeight):
            palettized.append((weight, result))
        elif isinstance(result, TooSmallError):
            skipped.append(SkippedWeight(weight.name, SkipReason.TOO_SMALL, result.explanation))
        else:
            indivisible_ones.append((weight, result))
    rule = Indivisible.of(leave_indivisible if palettized else bool(leave_indivisible))  # None where nothing else is
    refused: list[SkippedWeight] = []
    for weight, error in indivisible_ones:
        is_refused = rule.refuses(error, is_specific=weight.is_specific)
        (refused if is_refused else skipped).append(indivisible(weight.name, error))
    if refused:
        raise PalettizationError(cannot_be_cut(refused))
    return SortedOut(tuple(palettized), tuple(skipped))


class _Portable:
    """Tensors pickle as plain bytes.

    Torch would send handles to shared memory, which end with the process that made them and are limited in number.
    """

    def __reduce__(self) -> Any:
        fields = asdict(cast(AttrsInstance, self), recurse=False)
        return _received, (type(self), {name: _bytes_of(value) for name, value in fields.items()})


@frozen(eq=False)
class Job(_Portable):
    """Arguments of `palettize`: what it depends on, and nothing else."""

    tensor: Tensor
    spec: PalettizationSpec
    op_type: str
    name: str
    seed: int
    importance: Tensor | None
    mask: Tensor | None = None

    @classmethod
    def of(
        cls,
        name: str,
        parameter: Tensor | None,
        spec: PalettizationSpec,
        op_type: str,
        seed: int,
        sensitivities: Sensitivities | None,
        mask: Tensor | None = None,
    ) -> Job:
        """The job of a parameter, whose elements count by `sensitivities` where there are any; a pruned one has a mask.

        Raises:
            PalettizationError: when the sensitivities are those of another model.
        """
        assert parameter is not None
        importance = None if sensitivities is None else sensitivities.of(name, tuple(parameter.shape))
        return cls(parameter.detach(), spec, op_type, name, seed, importance, mask)

    def run(self) -> Found:
        """Cluster the weight here.

        Raises:
            PalettizationError: for a weight that no spec can palettize.
        """
        try:
            return palettize(
                self.tensor,
                self.spec,
                self.op_type,
                name=self.name,
                seed=self.seed,
                importance=self.importance,
                mask=self.mask,
            )
        except (TooSmallError, BlockSizeError) as error:
            return error


@frozen(eq=False)
class Outcome(_Portable):
    """What a worker sends back: the parts of a palettized weight, or an error."""

    parts: Mapping[str, Any]
    error: TooSmallError | BlockSizeError | None

    @property
    def found(self) -> Found:
        """What `Job.run` returned there."""
        return PalettizedWeight(**self.parts) if self.error is None else self.error


def run_elsewhere(job: Job, tries: int) -> Outcome:
    """Run `job` in a worker, where it was tried so many times before."""
    found = job.run()
    if isinstance(found, PalettizedWeight):
        return Outcome(asdict(found, recurse=False), None)
    return Outcome({}, found)


def _bytes_of(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _bytes_of(part) for name, part in value.items()}
    if not isinstance(value, Tensor):
        return value
    plain = value.detach().cpu().contiguous()
    return _Bytes(plain.reshape(-1).view(torch.uint8).numpy(), plain.dtype, tuple(plain.shape))


def _received(cls: Callable[..., Any], fields: Mapping[str, Any]) -> Any:
    return cls(**{name: _tensor_of(value) for name, value in fields.items()})


def _tensor_of(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tensor_of(part) for name, part in value.items()}
    if not isinstance(value, _Bytes):
        return value
    # A copy where the bytes came in memory that cannot be written to, as a transport may hand it over.
    data = value.data if value.data.flags.writeable else value.data.copy()
    return torch.from_numpy(data).view(value.dtype).reshape(value.shape)


@frozen(eq=False)
class _Bytes:
    data: Any
    dtype: torch.dtype
    shape: tuple[int, ...]


MOST_TRIES = 3
# Weights on their way to an executor that does not tell how many workers it has.
IN_FLIGHT = 32


class WorkerError(GraphpressError, RuntimeError):
    """Workers were lost again and again; the message names the weights that they were at work on."""


def clustered(jobs: Iterable[Job], num_workers: int, executor: Executor | None) -> Iterator[Found]:
    """What becomes of each weight, in order. Nothing random is shared, so the workers cannot change the result.

    Weights are handed out as results come back, two for each worker, so that copies on their way do not add up to the
    model. What a lost worker had is handed out again, to a new pool where the old one broke.

    Raises:
        PalettizationError: for weights that cannot be palettized.
        WorkerError: when a weight is lost several times.
    """
    if executor is None and num_workers == 1:
        yield from (job.run() for job in jobs)
        return
    with ExitStack() as stack:
        if executor is None:  # clustering runs without the interpreter lock
            executor = stack.enter_context(ThreadPoolExecutor(num_workers))
        yield from _Handing(iter(jobs), executor, stack).results()


class _Given:
    """A job that was handed out, to whom, and how often before."""

    def __init__(self, job: Job):
        self.job = job
        self.tries = 0
        self.executor: Executor | None = None
        self.future: Future[Outcome] = Future()

    def submit(self, executor: Executor) -> None:
        self.executor = executor
        try:
            # The number of the try tells them apart for executors that remember results by arguments.
            self.future = executor.submit(run_elsewhere, self.job, self.tries)
        except BrokenExecutor as error:  # `_Handing` sees to it when this job's turn comes
            self.future = Future()
            self.future.set_exception(error)


class _Handing:
    """Hands jobs to an executor and takes results in order."""

    def __init__(self, jobs: Iterator[Job], executor: Executor, stack: ExitStack):
        self._jobs = jobs
        self._executor = executor
        self._stack = stack
        self._workers: int = getattr(executor, "_max_workers", IN_FLIGHT // 2)
        self._given: deque[_Given] = deque()

    def results(self) -> Iterator[Found]:
        """What becomes of each job."""
        try:
            while True:
                for job in islice(self._jobs, 2 * self._workers - len(self._given)):
                    self._given.append(_Given(job))
                    self._given[-1].submit(self._executor)
                if not self._given:
                    return
                found = self._found(self._given[0])
                self._given.popleft()
                yield found
        finally:
            for each in self._given:
                each.future.cancel()

    def _found(self, given: _Given) -> Found:
        while True:
            try:
                return given.future.result().found
            except GraphpressError:
                raise
            except Exception as error:
                self._hand_out_again(given, error)

    def _hand_out_again(self, given: _Given, error: Exception) -> None:
        """Hand out what was lost; where the pool broke, everything that it had not finished."""
        lost = [given]
        if isinstance(error, BrokenExecutor):
            broken = given.executor
            lost = [each for each in self._given if each.executor is broken and each.future.exception() is not None]
            self._executor = self._stack.enter_context(_another(self._executor, self._workers))
        names = ", ".join(each.job.name for each in lost)
        reason = f"{type(error).__name__}: {error}"
        for each in lost:
            each.tries += 1
        if given.tries == MOST_TRIES:
            raise WorkerError(f"workers failed {MOST_TRIES} times at one of {names} ({reason})") from error
        warnings.warn(f"a worker was lost ({reason}); clustered again: {names}", PalettizationWarning, stacklevel=2)
        for each in lost:
            each.submit(self._executor)


def _another(broken: Executor, workers: int) -> Executor:
    """A pool in place of a broken one: of processes set up in the same way, or else of threads."""
    if not isinstance(broken, ProcessPoolExecutor):
        return ThreadPoolExecutor(workers)
    setup = {name: getattr(broken, f"_{name}", None) for name in ("mp_context", "initializer")}
    return ProcessPoolExecutor(workers, **setup, initargs=getattr(broken, "_initargs", ()))
