"""What torch.export refuses ends in one error of ours, which says where it is and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from graphpress.ir import ExportError, from_exported_program, from_module
from graphpress.ir.errors import GraphpressError
from graphpress.quantization import Quantizer

torch.set_num_threads(1)


class Cache:
    def __init__(self, rows):
        self.rows = rows


class DynamicCache(Cache):
    """Named as the class of transformers, which names in messages are compared with."""


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x)


class ReturnsObject(Layer):
    def forward(self, x):
        return Cache(self.linear(x))


class ReturnsCache(Layer):
    def forward(self, x):
        return DynamicCache(self.linear(x))


class TakesObject(Layer):
    def forward(self, x):
        return self.linear(x.rows)


class Branches(Layer):
    def forward(self, x):
        if x.sum() > 0:
            return self.linear(x)
        return x


class Counts(Layer):
    def forward(self, x):
        return self.linear(x) if x.nonzero().shape[0] > 3 else x


class Asserts(Layer):
    def forward(self, x):
        assert x.shape[0] == 3, "three rows"
        return self.linear(x)


class Scales(Layer):
    def forward(self, x, *, scale):
        return self.linear(x) * scale


X = torch.randn(2, 4)
DATA = "depends on the values of tensors; compute both cases"
CASES = {
    "object": (ReturnsObject, (X,), "accepted outputs: tensors, numbers, .*register the class"),
    "cache": (ReturnsCache, (X,), r"register_dynamic_cache_export_support\(\).*or return tensors"),
    "input": (TakesObject, (Cache(X),), "accepted inputs: tensors"),
    "branch": (Branches, (X,), rf"test_export_errors.py:\d+: `if x.sum\(\) > 0:`.*{DATA}"),
    "count": (Counts, (X,), rf"test_export_errors.py:\d+: `return self.linear\(x\) if x.nonzero.*{DATA}"),
    "missing": (
        Scales,
        (X,),
        r"do not fit Scales: missing a required argument: 'scale'; forward takes \(x, \*, scale\)",
    ),
    "unknown": (Scales, {"x": X, "scale": 1.0, "shift": X}, "got an unexpected keyword argument 'shift'"),
    "many": (Layer, (X, X), "too many positional arguments; .* got 2 by position; accepted: a tuple"),
}


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
@pytest.mark.parametrize("case", CASES)
def test_a_failed_export_says_where_and_what_to_do(case, strict):
    kind, inputs, message = CASES[case]
    quantizer = Quantizer(kind())
    with pytest.raises(ExportError, match=message) as caught:
        quantizer.prepare(inputs, strict=strict)
    assert caught.value.__cause__ is not None
    assert len(str(caught.value)) < 900
    assert "http" not in str(caught.value)
    assert not quantizer.is_prepared


def test_a_failed_assertion_of_the_model_is_told_with_its_line():
    with pytest.raises(ExportError, match=r"`assert x.shape\[0\] == 3, \"three rows\"`: three rows"):
        Quantizer(Asserts()).prepare((X,))


@pytest.mark.parametrize(
    "shapes", [({0: Dim("b", min=5)},), ({1: Dim("b")},), ({7: Dim("b")},), 3, ({0: Dim("b")}, None)], ids=str
)
def test_dynamic_shapes_that_do_not_fit_are_shown(shapes):
    with pytest.raises(ExportError, match="cannot export Layer with dynamic_shapes="):
        from_module(Layer(), (X,), dynamic_shapes=shapes)


def test_a_failed_functionalization_is_an_error_of_ours(monkeypatch):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(4))

        def forward(self, x):
            self.total.view(2, 2).add_(x.sum())
            return self.total * x

    program = torch.export.export(Writes(), (torch.ones(4),))

    def failing(*_):
        raise AssertionError("expected compiled_fn to be GraphModule")

    monkeypatch.setattr(type(program), "run_decompositions", failing)
    with pytest.raises(ExportError, match=r"in-place ops .*register tensors that the model writes to") as caught:
        from_exported_program(program)
    assert isinstance(caught.value.__cause__, AssertionError)
    assert isinstance(caught.value, GraphpressError)


def test_a_registered_class_passes_through_prepare_as_input_and_output():
    class Registered(Cache):
        pass

    torch.utils._pytree.register_pytree_node(
        Registered,
        lambda cache: ([cache.rows], None),
        lambda rows, _: Registered(rows[0]),
        flatten_with_keys_fn=lambda cache: ([(torch.utils._pytree.GetAttrKey("rows"), cache.rows)], None),
    )

    class Appends(Layer):
        def forward(self, x, cache):
            return self.linear(x), Registered(torch.cat([cache.rows, x]))

    quantizer = Quantizer(Appends())
    prepared = quantizer.prepare((X, Registered(torch.ones(3, 4))))
    with quantizer.calibration_mode():
        prepared(X, Registered(torch.ones(3, 4)))
    for model in (prepared, quantizer.finalize()):
        scores, cache = model(X, Registered(torch.ones(3, 4)))
        assert scores.shape == (2, 4)
        assert isinstance(cache, Registered)
        assert cache.rows.shape == (5, 4)
