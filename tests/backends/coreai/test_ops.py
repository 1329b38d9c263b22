import importlib

import pytest
import torch

from graphpress.backends.coreai import MissingDependencyError, ops, register
from graphpress.ir.errors import GraphpressError


def test_registering_makes_every_operator_callable():
    register()
    for name in ops.OPERATORS:
        assert hasattr(torch.ops.coreai, name)


def test_a_missing_converter_names_the_extra_to_install(monkeypatch):
    def refuse(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingDependencyError, match=r"graphpress\[coreai\]") as caught:
        ops.require("coreai_torch.converter")
    assert isinstance(caught.value, GraphpressError)
    assert isinstance(caught.value, ImportError)
