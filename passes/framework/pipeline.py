"""Pipelines: immutable sequences of passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import evolve, field, frozen

from graphpress.passes.framework.facts import Fact, fact_set
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.pipeline_text import parse_steps, print_steps
from graphpress.passes.framework.steps import Repeat, Step, StepLike, check_order, edit_at, find_place, flatten, places

__all__ = ["Pipeline", "Repeat", "Step"]


@frozen(init=False)
class Pipeline:
    """An immutable sequence of passes and repeats; pipelines with equal steps are equal.

    ``Pipeline(FoldBatchNorm(), Repeat(DedupFakeQuant(), Dce(), max=8))`` is
    ``Pipeline.parse("fold-batch-norm,repeat{max=8}(dedup-fake-quant,dce)")``, and `str` returns that text. A pipeline
    among the steps contributes its own steps.

    Attributes:
        steps: the passes and repeats.
        assume: facts that hold for the graph before the first step.
        gives: the facts that hold after the last step.

    Raises:
        PipelineError: if a step needs a fact that does not hold at its position.
    """

    steps: tuple[StepLike, ...]
    assume: frozenset[Fact] = field(eq=False, repr=False)
    gives: frozenset[Fact] = field(eq=False, repr=False)

    def __init__(self, *steps: StepLike | Pipeline, assume: Iterable[Fact] | Fact = ()):
        flat, assumed = flatten(steps), fact_set(assume)
        self.__attrs_init__(flat, assumed, check_order(flat, assumed))

    @classmethod
    def parse(cls, text: str, *, assume: Iterable[Fact] | Fact = ()) -> Pipeline:
        """Parse the text form; see `pipeline_text` for the grammar.

        Raises:
            PipelineSyntaxError: at the offending character, with similar names.
            PipelineError: if a step needs a fact that does not hold at its position.
        """
        return cls(*parse_steps(text), assume=assume)

    def __str__(self) -> str:
        return print_steps(self.steps)

    # Reading.

    def __iter__(self) -> Iterator[Step]:
        """Yield every pass with its address, those inside a repeat once."""
        found = [place for place in places(self.steps) if isinstance(place.step, Pass)]
        for index, place in enumerate(found):
            assert isinstance(place.step, Pass)
            yield Step(place.address, place.step, place.parents, index, len(found))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of all steps, including repeats, in textual order."""
        return tuple(place.address for place in places(self.steps))

    def __getitem__(self, address: str) -> Any:
        """Return the pass or `Repeat` at `address` (``dce#2``; ``dce`` if it is unique).

        Raises:
            PipelineError: if no step or several steps match.
        """
        return find_place(self.steps, address).step

    # Derived pipelines; each method raises PipelineError for an address without a step.

    def after(self, address: str, *steps: StepLike | Pipeline) -> Pipeline:
        """Return this pipeline with `steps` inserted right after the step at `address`, in the same repeat."""
        return self._edited(address, lambda step: (step, *flatten(steps)))

    def before(self, address: str, *steps: StepLike | Pipeline) -> Pipeline:
        """Return this pipeline with `steps` inserted right before the step at `address`, in the same repeat."""
        return self._edited(address, lambda step: (*flatten(steps), step))

    def replace(self, address: str, *steps: StepLike | Pipeline) -> Pipeline:
        """Return this pipeline with the step at `address` replaced by `steps`."""
        return self._edited(address, lambda _: flatten(steps))

    def without(self, address: str) -> Pipeline:
        """Return this pipeline without the step at `address`; an empty repeat is removed too."""
        return self._edited(address, lambda _: ())

    def with_options(self, address: str, **options: Any) -> Pipeline:
        """Return this pipeline with changed options of the pass or repeat at `address`."""

        def changed(step: StepLike) -> tuple[StepLike, ...]:
            return (Repeat(*step.steps, **options) if isinstance(step, Repeat) else evolve(step, **options),)

        return self._edited(address, changed)

    def __add__(self, other: Pipeline) -> Pipeline:
        """Return the steps of both pipelines in sequence."""
        return (
            Pipeline(*self.steps, *other.steps, assume=self.assume) if isinstance(other, Pipeline) else NotImplemented
        )

    def _edited(self, address: str, edit: Any) -> Pipeline:
        place = find_place(self.steps, address)
        return Pipeline(*edit_at(self.steps, place.path, edit), assume=self.assume)
