"""The clustering of one weight as something that can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import torch
from attrs import AttrsInstance, asdict, frozen
from torch import Tensor

from graphpress.palettization.sensitivities import Sensitivities
from graphpress.passes.palettization import PalettizedWeight, TooSmallError, palettize
from graphpress.passes.specs import BlockSizeError, PalettizationSpec

Found: TypeAlias = PalettizedWeight | TooSmallError | BlockSizeError
"""A palettized weight, or why there is none."""


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
