"""Random pipelines of the standard passes, in any order that their facts allow."""

from __future__ import annotations

from hypothesis import strategies as st

from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.dedup_fake_quant import DedupFakeQuant
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, PipelineError, Repeat
from graphpress.passes.framework.steps import StepLike
from graphpress.passes.insert_fake_quant import InsertFakeQuant
from graphpress.passes.share_quantizers import ShareQuantizers

STEPS: tuple[StepLike, ...] = (
    Canonicalize(),
    FoldBatchNorm(),
    FoldBatchNorm(split_shared=False),
    FoldConstants(),
    FoldConstants(growth=1.0),
    Cse(),
    Dce(),
    Repeat(Cse(), Dce(), max=3),
    Repeat(FoldConstants(), Repeat(Cse(), max=2), max=2),
    AnnotateFusion(),
    AssignQuantizers(),
    ShareQuantizers(),
    InsertFakeQuant(),
    DedupFakeQuant(),
)


@st.composite
def standard_pipelines(draw: st.DrawFn, longest: int = 8) -> Pipeline:
    """Up to `longest` steps, each one of those whose facts hold where it stands."""
    pipeline = Pipeline()
    for _ in range(draw(st.integers(1, longest))):
        pipeline = draw(st.sampled_from([longer for step in STEPS if (longer := _with(pipeline, step)) is not None]))
    return pipeline


def _with(pipeline: Pipeline, step: StepLike) -> Pipeline | None:
    try:
        return Pipeline(pipeline, step)
    except PipelineError:
        return None
