from __future__ import annotations

import pytest

from graphpress import ExportBackend, pipelines
from graphpress.backends import (
    Backend,
    BackendRegistrationError,
    UnknownBackendError,
    lookup_backend,
    register_backend,
    registered_backends,
    unregister_backend,
)
from graphpress.export_backend import ExportBackendError
from graphpress.passes.dce import Dce


class Toy:
    name = "toy"

    def lowering(self):
        return (Dce(),)

    def convert(self, model, path, example_inputs=None):
        return path


@pytest.fixture
def toy():
    register_backend(Toy)
    yield
    unregister_backend("toy")


def test_core_ai_is_a_backend_like_any_other():
    backend = lookup_backend("coreai")
    assert isinstance(backend, Backend)
    assert [type(step).__name__ for step in backend.lowering()] == ["LowerToCoreai"]


def test_a_registered_backend_is_found_until_it_is_removed(toy):
    assert isinstance(lookup_backend("toy"), Toy)
    assert "toy" in [backend.name for backend in registered_backends()]
    unregister_backend("toy")
    with pytest.raises(UnknownBackendError):
        lookup_backend("toy")
    register_backend(Toy())


def test_pipelines_lower_to_a_registered_backend(toy):
    assert str(pipelines.finalize("toy")).endswith("cse,dce,dce")


def test_unknown_names_suggest_near_ones():
    with pytest.raises(UnknownBackendError, match=r"no backend 'corai'; did you mean 'coreai'\?.*registered: coreai"):
        lookup_backend("corai")


def test_two_backends_of_one_name_are_refused(toy):
    class Other(Toy):
        pass

    with pytest.raises(BackendRegistrationError, match=r"'toy' is taken twice: by .*Toy and by .*Other"):
        register_backend(Other)
    register_backend(Toy)  # the same one again is no clash


def test_what_lacks_a_part_is_refused():
    class Half:
        name = "half"

    with pytest.raises(BackendRegistrationError, match="lacks lowering, convert"):
        register_backend(Half)


def test_a_name_that_is_not_kebab_case_is_refused():
    class Shouting(Toy):
        name = "TOY"

    with pytest.raises(BackendRegistrationError, match="kebab case"):
        register_backend(Shouting)


def test_the_two_forms_for_core_ml_are_asked_for_by_different_objects():
    assert str(pipelines.finalize(ExportBackend.CoreML)).endswith(",lower-to-coreml-metadata")
    assert str(pipelines.finalize(ExportBackend.CoreAI)).endswith(",lower-to-coreai")
    assert pipelines.finalize(lookup_backend("coreml")) == pipelines.finalize(ExportBackend.CoreAI)


@pytest.mark.parametrize("name", ["coreml", "CoreML", "mil", "MIL"])
@pytest.mark.parametrize("ask", [pipelines.finalize, pipelines.lowering])
def test_a_name_that_could_be_either_form_says_what_each_is_called(ask, name):
    with pytest.raises(ExportBackendError, match=r"names two forms: ExportBackend\.CoreML.*lookup_backend\('coreml'\)"):
        ask(name)


@pytest.mark.parametrize("backend", [None, 3, Toy])
def test_what_is_neither_a_form_nor_a_backend_is_refused_with_what_is_accepted(backend):
    with pytest.raises(
        ExportBackendError, match=r"accepted: ExportBackend\.CoreAI, ExportBackend\.CoreML, a registered"
    ):
        pipelines.lowering(backend)


def test_every_registered_backend_can_be_lowered_to(toy):
    assert [pipelines.lowering(backend) for backend in registered_backends()] == [
        tuple(backend.lowering()) for backend in registered_backends()
    ]


def test_every_form_of_finalized_models_has_a_lowering_of_its_own():
    names = [[step.name for step in pipelines.lowering(form)] for form in ExportBackend]
    assert names == [["lower-to-coreai"], ["lower-to-coreml-metadata"], ["store-dense"]]
