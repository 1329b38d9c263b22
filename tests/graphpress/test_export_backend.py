import pickle

import pytest

from graphpress import ExportBackend, GraphpressError


def test_backends_are_given_as_members_or_by_name():
    assert ExportBackend.of(ExportBackend.CoreML) is ExportBackend.CoreML
    assert ExportBackend.of("coreai") is ExportBackend.CoreAI
    assert pickle.loads(pickle.dumps(ExportBackend.CoreAI)) is ExportBackend.CoreAI
    assert [*ExportBackend] == [ExportBackend.CoreAI, ExportBackend.CoreML, ExportBackend.Torch]


@pytest.mark.parametrize(("old", "new"), [("MLIR", ExportBackend.CoreAI), ("MIL", ExportBackend.CoreML)])
def test_older_names_still_work_with_a_warning(old, new):
    for find in (lambda: getattr(ExportBackend, old), lambda: ExportBackend[old], lambda: ExportBackend.of(old)):
        with pytest.warns(DeprecationWarning, match=f"{old} is now {new.name}"):
            assert find() is new


def test_other_names_are_errors_with_near_ones():
    with pytest.raises(GraphpressError, match="coreai"):
        ExportBackend.of("core_ai")
    with pytest.raises(AttributeError, match="CoreAI"):
        ExportBackend.CoreIA  # noqa: B018


def test_older_values_still_work_with_a_warning():
    with pytest.warns(DeprecationWarning, match="is now CoreAI"):
        assert ExportBackend("mlir") is ExportBackend.CoreAI
    with pytest.warns(DeprecationWarning, match="is now CoreML"):
        assert ExportBackend("mil") is ExportBackend.CoreML
    with pytest.raises(ValueError, match="MIL"):
        ExportBackend("MIL")
