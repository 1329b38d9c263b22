"""Clustering of many weights, in this process or on an executor that may lose workers."""

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
    UncutWeight,
    VectorKMeansConfig,
    cannot_be_cut,
)
from graphpress.passes.weights import (
    PalettizationError,
    PalettizationWarning,
    PalettizedWeight,
    TooSmallError,
    palettize,
    unfilled,
)

Found: TypeAlias = PalettizedWeight | TooSmallError | BlockSizeError
"""A palettized weight, or the reason why it is skipped."""


@frozen(eq=False)
class SortedOut:
    """Clustered weights: the palettized ones, and the skipped ones with reasons."""

    palettized: tuple[tuple[PlannedWeight, PalettizedWeight], ...]
    skipped: tuple[SkippedWeight, ...]


def sorted_out(planned: Sequence[PlannedWeight], found: Sequence[Found], leave_indivisible: bool | None) -> SortedOut:
    """Separate the palettized weights from the skipped ones.

    Raises:
        PalettizationError: for weights that do not divide into groups or vectors, see `KMeansPalettizer.prepare`.
    """
    palettized, skipped, uncut = [], [], list[UncutWeight]()
    for weight, result in zip(planned, found, strict=True):
        if isinstance(result, PalettizedWeight):
            palettized.append((weight, result))
        elif isinstance(result, TooSmallError):
            skipped.append(SkippedWeight(weight.name, SkipReason.TOO_SMALL, result.explanation))
        else:
            uncut.append(UncutWeight(weight.name, result, weight.is_specific))
    rule = Indivisible.of(leave_indivisible if palettized else bool(leave_indivisible))  # None where nothing else is
    refused = rule.refused(uncut)
    if refused:
        raise PalettizationError(cannot_be_cut(refused))
    return SortedOut(tuple(palettized), (*skipped, *(each.record for each in uncut)))


class _Portable:
    """Base of records whose tensors are pickled as bytes.

    Torch would send handles to shared memory, which are limited in number and end with the process that made them.
    """

    def __reduce__(self) -> Any:
        fields = asdict(cast(AttrsInstance, self), recurse=False)
        return _received, (type(self), {name: _bytes_of(value) for name, value in fields.items()})


@frozen(eq=False)
class Job(_Portable):
    """The arguments of `palettize` for one weight."""

    tensor: Tensor
    spec: PalettizationSpec
    op_type: str
    name: str
    seed: int
    importance: Tensor | None
    mask: Tensor | None = None
    vectors: VectorKMeansConfig | None = None

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
        vectors: VectorKMeansConfig | None = None,
    ) -> Job:
        """Build the job of a parameter, with element weights by `sensitivities` and a `mask` of kept elements.

        Raises:
            PalettizationError: if the sensitivities belong to another model.
        """
        assert parameter is not None
        importance = None if sensitivities is None else sensitivities.of(name, tuple(parameter.shape))
        return cls(parameter.detach(), spec, op_type, name, seed, importance, mask, vectors)

    def run(self) -> Found:
        """Cluster the weight in this process.

        Raises:
            PalettizationError: for a weight that cannot be palettized by any spec.
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
                vectors=self.vectors,
            )
        except (TooSmallError, BlockSizeError) as error:
            return error

    def unfilled(self) -> Found:
        """Return the structure of the result of `run`, to be filled."""
        try:
            return unfilled(self.tensor, self.spec, self.op_type, name=self.name, mask=self.mask)
        except (TooSmallError, BlockSizeError) as error:
            return error


@frozen(eq=False)
class Outcome(_Portable):
    """The result of a worker: the fields of a palettized weight, or the reason why there is none."""

    parts: Mapping[str, Any]
    error: TooSmallError | BlockSizeError | None

    @property
    def found(self) -> Found:
        """Return the result of `Job.run` in the worker."""
        return PalettizedWeight(**self.parts) if self.error is None else self.error


def run_elsewhere(job: Job, tries: int) -> Outcome:
    """Run `job` in a worker; `tries` counts earlier attempts."""
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
    # Transports may deliver read-only memory, which is copied.
    data = value.data if value.data.flags.writeable else value.data.copy()
    return torch.from_numpy(data).view(value.dtype).reshape(value.shape)


@frozen(eq=False)
class _Bytes:
    data: Any
    dtype: torch.dtype
    shape: tuple[int, ...]


MOST_TRIES = 3
# Weights in flight to an executor of unknown size.
IN_FLIGHT = 32


class WorkerError(GraphpressError, RuntimeError):
    """Workers were lost repeatedly; the message names the affected weights."""


def clustered(jobs: Iterable[Job], num_workers: int, executor: Executor | None) -> Iterator[Found]:
    """Yield the result of each job, in order; it does not depend on the number of workers.

    At most two jobs per worker are in flight, which bounds the memory of their copies. Jobs of a lost worker are
    submitted again, to a new pool if the old one is broken.

    Raises:
        PalettizationError: for weights that cannot be palettized.
        WorkerError: if a weight is lost several times.
    """
    if executor is None and num_workers == 1:
        yield from (job.run() for job in jobs)
        return
    with ExitStack() as stack:
        if executor is None:  # clustering releases the interpreter lock
            executor = stack.enter_context(ThreadPoolExecutor(num_workers))
        yield from _Dispatcher(iter(jobs), executor, stack).results()


class _Submitted:
    """A submitted job, with its executor and the number of failed attempts."""

    def __init__(self, job: Job):
        self.job = job
        self.tries = 0
        self.executor: Executor | None = None
        self.future: Future[Outcome] = Future()

    def submit(self, executor: Executor) -> None:
        self.executor = executor
        try:
            # The attempt number distinguishes calls for executors that cache results by arguments.
            self.future = executor.submit(run_elsewhere, self.job, self.tries)
        except BrokenExecutor as error:  # handled by `_Dispatcher` when it waits for this job
            self.future = Future()
            self.future.set_exception(error)


class _Dispatcher:
    """Submits jobs to an executor and yields results in order."""

    def __init__(self, jobs: Iterator[Job], executor: Executor, stack: ExitStack):
        self._jobs = jobs
        self._executor = executor
        self._stack = stack
        self._workers: int = getattr(executor, "_max_workers", IN_FLIGHT // 2)
        self._submitted: deque[_Submitted] = deque()

    def results(self) -> Iterator[Found]:
        """Yield the result of each job, in order."""
        try:
            while True:
                for job in islice(self._jobs, 2 * self._workers - len(self._submitted)):
                    self._submitted.append(_Submitted(job))
                    self._submitted[-1].submit(self._executor)
                if not self._submitted:
                    return
                found = self._found(self._submitted[0])
                self._submitted.popleft()
                yield found
        finally:
            for each in self._submitted:
                each.future.cancel()

    def _found(self, submitted: _Submitted) -> Found:
        while True:
            try:
                return submitted.future.result().found
            except GraphpressError:
                raise
            except Exception as error:
                self._resubmit(submitted, error)

    def _resubmit(self, submitted: _Submitted, error: Exception) -> None:
        """Submit a lost job again; if the pool is broken, submit all of its unfinished jobs to a new one."""
        lost = [submitted]
        if isinstance(error, BrokenExecutor):
            broken = submitted.executor
            lost = [each for each in self._submitted if each.executor is broken and each.future.exception() is not None]
            self._executor = self._stack.enter_context(_another(self._executor, self._workers))
        names = ", ".join(each.job.name for each in lost)
        reason = f"{type(error).__name__}: {error}"
        for each in lost:
            each.tries += 1
        if submitted.tries == MOST_TRIES:
            raise WorkerError(f"workers failed {MOST_TRIES} times at one of {names} ({reason})") from error
        warnings.warn(f"a worker was lost ({reason}); clustered again: {names}", PalettizationWarning, stacklevel=2)
        for each in lost:
            each.submit(self._executor)


def _another(broken: Executor, workers: int) -> Executor:
    """Create a replacement of a broken pool: of processes with the same setup, or of threads."""
    if not isinstance(broken, ProcessPoolExecutor):
        return ThreadPoolExecutor(workers)
    setup = {name: getattr(broken, f"_{name}", None) for name in ("mp_context", "initializer")}
    return ProcessPoolExecutor(workers, **setup, initargs=getattr(broken, "_initargs", ()))
