from __future__ import annotations

import pytest

from graphpress.passes.framework import Fact, Pipeline, PipelineError, Repeat
from tests.passes.framework.sample_passes import FOLDED, SampleBreak, SampleFold, SampleIdle, SampleOptions, SampleUse


def test_pipelines_with_equal_steps_are_equal():
    one = Pipeline(SampleIdle(), Repeat(SampleOptions(n_bits=2), max=3))
    assert one == Pipeline(SampleIdle(), Repeat(SampleOptions(n_bits=2), max=3))
    assert one != Pipeline(SampleIdle(), Repeat(SampleOptions(n_bits=3), max=3))
    assert one != Pipeline(SampleIdle(), Repeat(SampleOptions(n_bits=2), max=4))


def test_a_pipeline_inside_a_pipeline_contributes_its_steps():
    inner = Pipeline(SampleIdle(), SampleFold())
    assert Pipeline(inner, SampleUse()) == Pipeline(SampleIdle(), SampleFold(), SampleUse())
    assert inner + Pipeline(SampleIdle()) == Pipeline(SampleIdle(), SampleFold(), SampleIdle())


def test_steps_are_addressed_by_name_and_number_in_the_order_of_the_text():
    pipeline = Pipeline(SampleIdle(), Repeat(SampleIdle(), Repeat(SampleFold())), SampleIdle())
    assert pipeline.addresses == (
        "sample-idle#1",
        "repeat#1",
        "sample-idle#2",
        "repeat#2",
        "sample-fold#1",
        "sample-idle#3",
    )
    assert [(s.address, s.parents) for s in pipeline][2] == ("sample-fold#1", ("repeat#1", "repeat#2"))
    assert pipeline["sample-fold"] == SampleFold()
    assert len(pipeline) == 4


def test_steps_are_inserted_replaced_and_removed_by_address():
    pipeline = Pipeline(SampleIdle(), Repeat(SampleIdle(), max=2))
    assert str(pipeline.after("sample-idle#2", SampleFold())) == "sample-idle,repeat{max=2}(sample-idle,sample-fold)"
    assert str(pipeline.before("sample-idle#1", SampleFold())) == "sample-fold,sample-idle,repeat{max=2}(sample-idle)"
    assert str(pipeline.replace("repeat", SampleFold(), SampleFold())) == "sample-idle,sample-fold,sample-fold"
    assert str(pipeline.without("sample-idle#2")) == "sample-idle"
    assert str(pipeline.with_options("repeat", max=5)) == "sample-idle,repeat{max=5}(sample-idle)"
    assert str(Pipeline(SampleOptions()).with_options("sample-options", n_bits=2)) == "sample-options{n_bits=2}"
    assert str(pipeline) == "sample-idle,repeat{max=2}(sample-idle)"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sample-idle", "ambiguous: say sample-idle#1 or sample-idle#2"),
        ("sample-idel#1", "did you mean 'sample-idle#1'"),
        ("zzz", "the steps are sample-idle#1, repeat#1, sample-idle#2"),
    ],
)
def test_an_address_that_names_no_single_step_is_an_error(address, message):
    with pytest.raises(PipelineError, match=message):
        Pipeline(SampleIdle(), Repeat(SampleIdle())).without(address)


def test_a_missing_fact_is_found_when_the_pipeline_is_built_and_the_pass_that_gives_it_is_named():
    with pytest.raises(PipelineError, match=r"'sample-use#1' needs the fact 'sample-folded' \(sample batch") as caught:
        Pipeline(SampleIdle(), SampleUse())
    assert "put 'sample-fold' before it" in str(caught.value)
    Pipeline(SampleFold(), SampleUse())
    assert Pipeline(SampleUse(), assume=FOLDED).gives == {FOLDED}


def test_what_is_assumed_is_kept_by_pipelines_made_from_one_and_is_no_part_of_its_value():
    one = Pipeline(SampleIdle(), assume=FOLDED)
    assert one == Pipeline(SampleIdle())
    assert hash(one) == hash(Pipeline(SampleIdle()))
    assert repr(one) == repr(Pipeline(SampleIdle()))
    assert one.after("sample-idle", SampleUse()).gives == {FOLDED}
    assert (one + Pipeline(SampleIdle())).assume == {FOLDED}
    assert Pipeline.parse("sample-use", assume=FOLDED).assume == {FOLDED}


def test_a_fact_given_too_late_or_broken_before_is_told_apart():
    with pytest.raises(PipelineError, match="sample-fold#1 gives it, but only later"):
        Pipeline(SampleUse(), SampleFold())
    with pytest.raises(PipelineError, match="sample-break#1 breaks it before"):
        Pipeline(SampleFold(), SampleBreak(), SampleUse())


def test_a_repeat_whose_second_round_lacks_a_fact_is_refused():
    with pytest.raises(PipelineError, match="sample-break#1 breaks it before"):
        Pipeline(SampleFold(), Repeat(SampleUse(), SampleBreak()))
    Pipeline(SampleFold(), Repeat(SampleUse(), SampleBreak(), max=1))
    Pipeline(Repeat(SampleFold(), SampleUse(), SampleBreak()))


def test_a_fact_nobody_gives_can_be_assumed():
    class Needy(SampleIdle):
        name = "needy"
        needs = Fact("unheard-of")

    with pytest.raises(PipelineError, match=r"no registered pass gives it; .* `assume`"):
        Pipeline(Needy())
    assert Pipeline(Needy(), assume=[Fact("unheard-of")]).after("needy", SampleIdle())


def test_what_is_no_step_is_refused():
    with pytest.raises(PipelineError, match=r"is a pass class; a step is an instance: SampleIdle\(...\)"):
        Pipeline(SampleIdle)
    with pytest.raises(PipelineError, match="'dce' is not a pass"):
        Pipeline("dce")
    with pytest.raises(PipelineError, match="`max` must be a positive integer, not 0"):
        Repeat(SampleIdle(), max=0)
    with pytest.raises(PipelineError, match="at least one step"):
        Repeat()
