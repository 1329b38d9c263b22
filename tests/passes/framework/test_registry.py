from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from attrs import frozen

from graphpress.passes.framework import (
    Pass,
    PassRegistrationError,
    UnknownPassError,
    lookup_pass,
    register_pass,
    registered_passes,
    unregister_pass,
)
from graphpress.passes.framework.passes import kebab_case
from graphpress.passes.framework.registry import load_entry_point, provider
from tests.passes.framework.sample_passes import Idle, SampleIdle


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("FoldBatchNorm", "fold-batch-norm"),
        ("DCE", "dce"),
        ("Cast16Bit", "cast-16-bit"),
        ("LUTToDense", "lut-to-dense"),
    ],
)
def test_names_are_made_from_class_names(class_name, name):
    assert kebab_case(class_name) == name
    assert type(class_name, (Idle,), {}).name == name


def test_passes_of_graphpress_are_found_without_being_imported():
    assert lookup_pass("dce").__module__ == "graphpress.passes.dce"
    assert {"cse", "dce", "sample-idle"} <= {cls.name for cls in registered_passes()}
    assert provider(lookup_pass("dce")) == "graphpress"


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(UnknownPassError, match="no pass 'dcee'; did you mean 'dce'"):
        lookup_pass("dcee")


def test_a_clash_names_both_classes():
    class Other(Idle):
        name = "sample-idle"

    with pytest.raises(PassRegistrationError, match=r"taken twice: by .*SampleIdle of .* and by .*Other"):
        register_pass(Other)
    assert lookup_pass("sample-idle") is SampleIdle


def test_a_pass_can_be_removed_again():
    class Passing(Idle):
        pass

    register_pass(Passing)
    assert lookup_pass("passing") is Passing
    unregister_pass(Passing)
    with pytest.raises(UnknownPassError):
        lookup_pass("passing")


def test_malformed_passes_are_refused():
    class Repeat(Idle):
        pass

    class BadName(Idle):
        name = "Bad_Name"

    class NotFrozen(Idle):
        n_bits: int = 4

    class Abstract(Pass):
        pass

    for cls, message in [
        (Repeat, "reserved"),
        (BadName, "kebab case"),
        (NotFrozen, "'n_bits' is not an option because the class is not decorated"),
        (Abstract, "does not define `run`"),
        (int, "is not a Pass class"),
    ]:
        with pytest.raises(PassRegistrationError, match=message):
            register_pass(cls)


def test_entry_points_give_classes_or_modules_and_anything_else_is_an_error():
    group = "graphpress.passes"
    load_entry_point(EntryPoint("dce", "graphpress.passes.dce:Dce", group))
    load_entry_point(EntryPoint("all", "graphpress.passes.cse", group))
    for value in ["no.such.module", "graphpress.passes.dce:Missing", "graphpress.passes.framework:EXACT"]:
        with pytest.raises(PassRegistrationError, match=r"entry point 'x' = "):
            load_entry_point(EntryPoint("x", value, group))


def test_a_pass_prints_as_its_text():
    @frozen
    class Bits(Idle):
        n: int = 1

    assert str(Bits(n=3)) == "bits{n=3}"
    assert Bits.summary() == ""
