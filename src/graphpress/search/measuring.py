"""Measurement of the sensitivity of each layer to each candidate config."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch
from attrs import frozen
from torch import nn

from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import path_of
from graphpress.ir.tensors import tensor_digest
from graphpress.passes.config import CompressionConfig
from graphpress.search.layers import Applied, Compression, entries, find_layers
from graphpress.search.metrics import Metric, SearchError, SearchWarning, name_of
from graphpress.search.sensitivities import Candidate, Measurement, Sensitivities, Setting, named


def measure_sensitivities(
    model: nn.Module,
    compression: Compression,
    candidates: Mapping[str, Any],
    metric: Metric,
    *,
    layers: Iterable[str] | None = None,
    per_layer: Mapping[str, Mapping[str, Any]] | None = None,
    higher_is_better: bool | None = None,
    path: str | PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivities:
    """Evaluate `model` with each layer compressed alone by each of its candidates.

    Args:
        model: the float model; it is not changed.
        compression: the compressor and its data.
        candidates: module configs for every layer, by arbitrary names.
        metric: evaluates a compressed model, in eval mode and without gradients; see `against`.
        layers: names of modules, which may be blocks of layers; None is every layer that compressors support.
        per_layer: other candidates for some layers, by layer name.
        higher_is_better: the metric's direction; None is its attribute of that name, or else False.
        path: a JSON file. Results in it are not measured again, and each new result is saved at once, so that an
            interrupted run can be resumed with the same final result.
        executor: any `concurrent.futures.Executor`; None measures sequentially in this process.
        progress: called with the number of results so far and the total.

    Returns:
        the complete sensitivities.

    Raises:
        SearchError: if names or candidates are invalid, the file holds other measurements, no candidate fits any layer,
            or the metric returns NaN.
    """
    if higher_is_better is None:
        higher_is_better = bool(getattr(metric, "higher_is_better", False))
    found = find_layers(model, layers)
    config_class = compression.compressor.config_class
    others = {} if per_layer is None else dict(per_layer)
    for name in others.keys() - {layer.name for layer in found}:
        raise SearchError(f"per_layer names {name!r}, which is not a layer of the search")
    setting = Setting(_digest_of_model(model), compression.digest, name_of(metric), higher_is_better)
    sensitivities = Sensitivities(
        setting,
        compression.base,
        None,
        found,
        {
            layer.name: tuple(named(others.get(layer.name, candidates), config_class, f"layer {layer.name!r}"))
            for layer in found
        },
        tuple(name for name, _ in model.named_modules(remove_duplicate=False)),
    )
    if path is not None and os.path.exists(path_of(path)):
        sensitivities = sensitivities.resumed_from(Sensitivities.load(path), path)
    sensitivities = _measured(sensitivities, _Subject(model, compression, metric), path, executor, progress)
    _report(sensitivities)
    return sensitivities


def judged(model: nn.Module, compression: Compression, config: CompressionConfig, metric: Metric) -> Measurement:
    """Compress a copy of `model` and evaluate it; errors of the compressor are raised."""
    return _judged(compression.apply(model, config), metric)


def _measured(
    sensitivities: Sensitivities,
    subject: _Subject,
    path: str | PathLike[str] | None,
    executor: Executor | None,
    progress: Callable[[int, int], None] | None,
) -> Sensitivities:
    jobs = [] if sensitivities.baseline is not None else [_job(sensitivities, subject, None, None)]
    jobs += [_job(sensitivities, subject, layer.name, c) for layer, c in sensitivities.unmeasured()]
    total = 1 + sum(map(len, sensitivities.candidates.values()))
    done = total - len(jobs)
    told: set[str] = set()
    for job, outcome in _outcomes(jobs, executor):
        where = "with no layer compressed" if job.layer is None else f"with {job.layer!r} as {job.candidate!r}"
        if outcome.measurement.reason is None and math.isnan(outcome.measurement.score):
            raise SearchError(f"the metric gives NaN for the model {where}")
        if job.layer is None:
            if outcome.measurement.reason is not None:
                raise SearchError(f"{outcome.measurement.reason} ({where})")
            sensitivities = sensitivities.with_baseline(outcome.measurement)
        else:
            sensitivities = sensitivities.with_measurement(job.layer, str(job.candidate), outcome.measurement)
        if path is not None:
            sensitivities.save(path)
        done += 1
        if progress is not None:
            progress(done, total)
        for text in outcome.warnings:
            if text not in told:
                told.add(text)
                warnings.warn(f"{where}: {text}", SearchWarning, stacklevel=3)
    return sensitivities


def _report(sensitivities: Sensitivities) -> None:
    """Warn about candidates that do not fit their layers; it is an error if none fits."""
    unfit = [
        f"{layer.name}, {c.name}: {c.measurement.reason}"
        for layer in sensitivities.layers
        for c in sensitivities.candidates[layer.name]
        if c.measurement is not None and c.measurement.reason is not None
    ]
    text = f"{len(unfit)} candidates do not fit their layers: " + "".join(f"\n  {line}" for line in unfit)
    if not any(sensitivities.fitting(layer) for layer in sensitivities.layers):
        raise SearchError(f"no candidate fits any layer; {text}")
    if unfit:
        warnings.warn(text, SearchWarning, stacklevel=3)


class _Subject:
    """The common data of all jobs, which is pickled once, and loaded once in each process."""

    def __init__(self, model: nn.Module, compression: Compression, metric: Metric):
        self.parts = (model, compression, metric)
        self._pickled: tuple[str, bytes] | None = None

    def __reduce__(self) -> Any:
        if self._pickled is None:
            data = pickle.dumps(self.parts)  # plain pickle, since shared memory uses up file handles
            self._pickled = hashlib.sha256(data).hexdigest(), data
        return _loaded, self._pickled


_LOADED: dict[str, _Subject] = {}


def _loaded(digest: str, data: bytes) -> _Subject:
    if digest not in _LOADED:
        _LOADED.clear()  # keeps one model at a time
        _LOADED[digest] = _Subject(*pickle.loads(data))
    return _LOADED[digest]


@frozen(eq=False)
class _Job:
    subject: _Subject
    config: CompressionConfig
    layer: str | None
    candidate: str | None


@frozen(eq=False)
class _Outcome:
    measurement: Measurement
    warnings: tuple[str, ...] = ()


def _job(sensitivities: Sensitivities, subject: _Subject, layer: str | None, candidate: Candidate | None) -> _Job:
    chosen = {} if layer is None or candidate is None else {layer: candidate.config}
    config = subject.parts[1].config(entries(sensitivities.layers, chosen, sensitivities.module_names))
    return _Job(subject, config, layer, None if candidate is None else candidate.name)


def _outcomes(jobs: list[_Job], executor: Executor | None) -> Iterator[tuple[_Job, _Outcome]]:
    if executor is None:
        for job in jobs:
            yield job, _run(job)
        return
    futures = {executor.submit(_run, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()


def _run(job: _Job) -> _Outcome:
    model, compression, metric = job.subject.parts
    with _warnings_kept() as texts:
        try:
            applied = compression.apply(model, job.config)
        except GraphpressError as error:
            measurement = Measurement(reason=" ".join(str(error).split()))
        else:
            measurement = _judged(applied, metric)
    return _Outcome(measurement, tuple(texts))


def _judged(applied: Applied, metric: Metric) -> Measurement:
    with torch.no_grad():
        return Measurement(float(metric(applied.model)), applied.stored_bytes)


@contextmanager
def _warnings_kept() -> Iterator[list[str]]:
    """Collect warnings, to issue them once for all jobs; in threads, which cannot collect them, they are issued."""
    texts: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield texts
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    told = (str(each.message) for each in caught if not issubclass(each.category, DeprecationWarning | FutureWarning))
    texts += dict.fromkeys(told)


def _digest_of_model(model: nn.Module) -> str:
    content = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        content.update(f"{name} {tensor_digest(tensor)}\n".encode())
    return content.hexdigest()
