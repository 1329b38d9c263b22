from __future__ import annotations

import pytest

from graphpress import pipelines
from graphpress.backends import (
    Backend,
    BackendRegistrationError,
    UnknownBackendError,
    lookup_backend,
    register_backend,
    registered_backends,
    unregister_backend,
)
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
