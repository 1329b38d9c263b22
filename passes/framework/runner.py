"""Execution of pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from attrs import define, evolve, field

from graphpress.ir.collector import holding_collector
from graphpress.ir.graph import Graph
from graphpress.ir.rewriter import RewriteLimitReached, Rewriter
from graphpress.passes.framework.errors import PipelineError
from graphpress.passes.framework.failure import failure_of
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.records import RunResult, StepRecord
from graphpress.passes.framework.standard_hooks import Hook, Verify
from graphpress.passes.framework.steps import Repeat, Step, StepLike, places


@define(eq=False)
class Runner:
    """Runs pipelines on graphs.

    Attributes:
        hooks: observers of the steps, outermost first; see `Hook`.
        verify: whether to add an innermost `Verify` hook if `hooks` has none.
    """

    hooks: Sequence[Hook] = ()
    verify: bool = field(default=True, kw_only=True)

    @holding_collector
    def run(self, graph: Graph, pipeline: Pipeline, in_place: bool = False) -> RunResult:
        """Run every step.

        The caller's graph is copied unless `in_place`; constant tensors are shared and not modified.

        Raises:
            PassFailed: if an exception leaves a pass; it names step, node, module path and source line.
            FactError: if the result of a step lacks a fact that its pass gives.
            GraphpressError: from a pass, about its user's request, with the step as a note.
            PipelineError: for something else than a graph or a pipeline.
        """
        if not isinstance(graph, Graph) or not isinstance(pipeline, Pipeline):
            given = f"{type(pipeline).__name__} over a {type(graph).__name__}"
            raise PipelineError(f"a Runner runs a Pipeline over a Graph, not a {given}")
        hooks = list(self.hooks)
        if self.verify and not any(isinstance(hook, Verify) for hook in hooks):
            hooks.append(Verify())
        steps = {step.address: step for step in pipeline}
        run = _Run(graph if in_place else graph.clone(), hooks, steps, _addresses(pipeline))
        run.sequence(pipeline.steps, (), ())
        return RunResult(run.graph, run.records, tuple(run.unsettled))


def run_pass(
    pass_: Pass, graph: Graph, *, hooks: Sequence[Hook] = (), verify: bool = True, in_place: bool = False
) -> RunResult:
    """Run one pass alone, with the facts it needs assumed."""
    return Runner(hooks, verify=verify).run(graph, Pipeline(pass_, assume=pass_.needs), in_place)


def _addresses(pipeline: Pipeline) -> dict[tuple[int, ...], str]:
    return {place.path: place.address for place in places(pipeline.steps)}


@define(eq=False)
class _Run:
    graph: Graph
    hooks: list[Hook]
    steps: dict[str, Step]
    addresses: dict[tuple[int, ...], str]
    records: list[StepRecord] = field(factory=list)
    unsettled: dict[str, None] = field(factory=dict)

    def sequence(self, steps: tuple[StepLike, ...], path: tuple[int, ...], rounds: tuple[int, ...]) -> None:
        for index, step in enumerate(steps):
            here = (*path, index)
            if isinstance(step, Repeat):
                self.repeat(step, here, rounds)
            else:
                self.records.append(self.step(evolve(self.steps[self.addresses[here]], rounds=rounds)))

    def repeat(self, repeat: Repeat, path: tuple[int, ...], rounds: tuple[int, ...]) -> None:
        for number in range(1, repeat.max + 1):
            first = len(self.records)
            self.sequence(repeat.steps, path, (*rounds, number))
            if not any(record.edits for record in self.records[first:]):
                return
        self.unsettled[self.addresses[path]] = None

    def step(self, step: Step) -> StepRecord:
        """Run one step inside its hooks."""
        record = StepRecord(step)
        if not all(hook.allow(step, self.graph) for hook in self.hooks):
            record.skipped = True
            return record
        entered: list[Hook] = []
        try:
            for hook in self.hooks:
                with _noting(hook, step):
                    hook.before(step, self.graph)
                entered.append(hook)
            self.run_pass(step, record)
            while entered:
                hook = entered.pop()
                with _noting(hook, step):
                    hook.after(step, self.graph, record)
        except BaseException as error:
            self.fail(step, entered, error)
            raise
        return record

    def run_pass(self, step: Step, record: StepRecord) -> None:
        rewriter, context = Rewriter(self.graph), PassContext(step.address)
        rewriter.rewrites.focus = lambda: context.node
        for hook in self.hooks:
            with _noting(hook, step):
                hook.rewriting(step, rewriter)
        start = perf_counter()
        try:
            step.pass_.run(self.graph, rewriter, context)
        except RewriteLimitReached:
            record.is_cut = True
            _erase_unread_constants(rewriter)
        except Exception as error:
            failure = failure_of(error, step, self.graph, context)
            if failure is error:
                raise
            raise failure from error
        record.seconds = perf_counter() - start
        edits = rewriter.edits
        record.added, record.removed, record.changed = edits.added, edits.removed, edits.changed
        record.constants, record.annotated = edits.constants, edits.annotated
        record.rewrites = rewriter.rewrites.count
        record.touched = tuple(rewriter.touched)
        record.statistics, record.reports = context.statistics, context.reports
        if not record.is_cut:
            for fact in sorted(step.pass_.gives, key=lambda fact: fact.name):
                fact.check(self.graph, f"step {step.label!r}")

    def fail(self, step: Step, entered: list[Hook], error: BaseException) -> None:
        """Call `failed` of all open hooks; exceptions of hooks are added as notes."""
        while entered:
            hook = entered.pop()
            try:
                hook.failed(step, self.graph, error)
            except Exception as second:
                error.add_note(f"the hook {type(hook).__name__} failed too: {type(second).__name__}: {second}")


def _erase_unread_constants(rewriter: Rewriter) -> None:
    """Erase unused constants after an interrupted pass, since a valid graph has none."""
    rewriter.rewrites.limit = None
    for constant in list(rewriter.graph.constants.values()):
        if not constant.value.use_count:
            rewriter.erase_constant(constant)


@contextmanager
def _noting(hook: Hook, step: Step) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"from the hook {type(hook).__name__} at step {step.label!r}")
        raise
