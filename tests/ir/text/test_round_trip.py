"""Whatever the IR holds survives text, storage and torch: the same graph, the same bits."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from torch import nn

from graphpress import pipelines
from graphpress.ir import (
    VerificationError,
    difference,
    from_exported_program,
    from_module,
    load_graph,
    parse_graph,
    print_graph,
    run,
    save_graph,
    to_exported_program,
    to_graph_module,
    verify,
)
from graphpress.ir.annotations import annotation
from graphpress.ir.graph import Graph, all_constants, nested_graphs
from graphpress.ir.ops import lookup_op
from graphpress.ir.text.pytrees import TreeSpecError, load_spec
from graphpress.ir.torch.emitted_module import CallError
from graphpress.palettization import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig, PalettizationSpec
from graphpress.passes.framework import Runner
from graphpress.passes.framework.hooks import Hook
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig, graph_mode
from graphpress.quantization.outlining import emit_finalized
from graphpress.tools.models import MODELS
from tests.ir.strategies import graphs, random_inputs
from tests.ir.zoo import ROWS, ZOO, Pair, assert_same, captured, flat_inputs, owning_its_tensors

torch.set_num_threads(1)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
SMALL = ("gpt_small", "small_resnet", "small_transformer", "vgg11")


def read_back(graph: Graph) -> Graph:
    """`graph` through its text form, with its data."""
    verify(graph)
    text = print_graph(graph)
    data = {constant.name: constant.tensor for constant in all_constants(graph)}
    again = parse_graph(text, data)
    assert difference(graph, again) is None
    assert print_graph(again) == text
    verify(again)
    return again


def stored(graph: Graph, folder: Path) -> Graph:
    """`graph` through files."""
    path = folder / "graph.gir"
    save_graph(graph, path)
    loaded = load_graph(path)
    assert difference(graph, loaded) is None
    verify(loaded)
    return loaded


def bits(outputs: Iterable[Any]) -> list[Any]:
    """Results that compare equal when every bit is, NaNs included."""
    return [(o.dtype, tuple(o.shape), _bytes(o)) if isinstance(o, torch.Tensor) else (type(o), o) for o in outputs]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


# models


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_hard_model_survives_text_and_files(name, tmp_path):
    graph, inputs = captured(name), flat_inputs(name)
    expected = bits(run(graph, inputs))
    for again in (read_back(graph), stored(graph, tmp_path)):
        assert bits(run(again, inputs)) == expected


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_hard_model_that_was_stored_is_called_as_before(name, tmp_path):
    build, args, kwargs, _ = ZOO[name]
    model, emitted = build(), to_graph_module(stored(captured(name), tmp_path))
    for _ in range(2):  # what the first call wrote is read by the second
        got, expected = copy.deepcopy((args, kwargs)), copy.deepcopy((args, kwargs))
        assert_same(emitted(*got[0], **got[1]), model(*expected[0], **expected[1]))
        assert_same(got, expected)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_hard_model_survives_another_export(name):
    graph, inputs = captured(name), flat_inputs(name)
    again = from_exported_program(to_exported_program(owning_its_tensors(graph)))
    read_back(again)
    assert bits(run(again, inputs)) == bits(run(graph, inputs))


def assert_survives_everything(name: str, folder: Path) -> None:
    entry = MODELS[name]
    model, inputs = entry.build(), entry.example_inputs()
    with torch.no_grad():
        expected = bits(pytree.tree_leaves(model(*inputs)))
    graph = from_module(model, inputs)
    loaded = stored(graph, folder)
    for again in (graph, read_back(graph), loaded, from_exported_program(to_exported_program(graph))):
        assert bits(run(again, inputs)) == expected
    with torch.no_grad():
        assert bits(pytree.tree_leaves(to_graph_module(loaded)(*inputs))) == expected


@pytest.mark.parametrize("name", SMALL)
def test_an_example_model_survives_everything_bit_for_bit(name, tmp_path):
    assert_survives_everything(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - set(SMALL)))
def test_a_large_example_model_survives_everything_bit_for_bit(name, tmp_path):
    assert_survives_everything(name, tmp_path)


@QUICK
@given(graphs())
def test_a_generated_graph_survives_everything(tmp_path_factory, graph):
    inputs = random_inputs(graph)
    expected = bits(run(graph, inputs))
    folder = tmp_path_factory.mktemp("generated")
    for again in (read_back(graph), stored(graph, folder), graph.clone(), copy.deepcopy(graph)):
        assert difference(graph, again) is None
        assert bits(run(again, inputs)) == expected
    assert bits(pytree.tree_leaves(_call(to_graph_module(graph), inputs))) == expected


@settings(QUICK, max_examples=6)
@given(graphs(max_nodes=6, with_literals=False, with_hostile_names=False))
def test_a_generated_graph_survives_another_export(graph):
    inputs = random_inputs(graph)
    again = from_exported_program(to_exported_program(graph))
    read_back(again)
    assert bits(run(again, inputs)) == bits(run(graph, inputs))


def _call(module: nn.Module, inputs: list[Any]) -> Any:
    with torch.no_grad():
        return module(*inputs)


# pipelines


class Joined(nn.Module):
    """Norms, sharing across pooling and concatenation, a known range, two kinds of outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.up, self.head = nn.ConvTranspose2d(4, 4, 2, 2), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        y = torch.sigmoid(self.up(nn.functional.max_pool2d(x, 2)))
        y = torch.cat([x, y], 1)
        return self.head(y.mean((2, 3))), {"all": y.flatten(1)}


def joined() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Joined().eval()


IMAGES = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def _config(weights: dict[str, Any], activations: dict[str, Any]) -> QuantizerConfig:
    state, activation = QuantizationSpec(**weights), QuantizationSpec(**activations)
    each = ModuleQuantizerConfig(
        op_state_spec={"*": state}, op_input_spec={"*": activation}, op_output_spec={"*": activation}
    )
    return QuantizerConfig(global_config=each)


CONFIGS: dict[str, Callable[[], QuantizerConfig]] = {
    "int8": QuantizerConfig,
    "int4": lambda: _config(
        {"dtype": torch.int4, "granularity": {"type": "per_channel"}}, {"dtype": torch.uint4, "qscheme": "asymmetric"}
    ),
    "blocks": lambda: _config(
        {
            "dtype": torch.uint8,
            "qscheme": "asymmetric",
            "qformulation": "minval",
            "granularity": {"type": "per_block", "axis": 1, "block_size": 1},
        },
        {"dtype": torch.uint8, "qformulation": "minval", "qparam_calculator_cls": "global_minmax"},
    ),
    "float8": lambda: _config({"dtype": torch.float8_e4m3fn}, {"dtype": torch.float8_e5m2}),
}


class Collect(Hook):
    """Keeps a copy of the graph after every step."""

    def __init__(self, found: dict[str, Graph]):
        self.found = found

    def after(self, step, graph, record):
        self.found[f"{len(self.found):02d} {step.pass_.name}"] = graph.clone()


def graphs_of_a_quantization(
    config: QuantizerConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Graph], nn.Module]:
    """The graph after every step that preparing and finalizing take, in order, and the finalized model."""
    found: dict[str, Graph] = {}
    monkeypatch.setattr(graph_mode, "Runner", lambda: Runner([Collect(found)]))
    quantizer = Quantizer(joined(), config)
    prepared = quantizer.prepare(IMAGES)
    with quantizer.calibration_mode():
        prepared(*IMAGES)
        prepared(2 * IMAGES[0])
    return found, quantizer.finalize()


@pytest.mark.parametrize("config", CONFIGS)
def test_a_graph_survives_after_every_step_of_a_quantization(config, monkeypatch, tmp_path):
    found, finalized = graphs_of_a_quantization(CONFIGS[config](), monkeypatch)
    assert {"insert-fake-quant", "convert-fake-quant", "lower-to-coreai"} <= {name.split()[1] for name in found}
    for name, graph in found.items():
        expected = bits(run(graph, IMAGES))
        for again in (read_back(graph), stored(graph, tmp_path)):
            assert bits(run(again, IMAGES)) == expected, name
    lowered = list(found.values())[-1]
    assert any(node.op.dialect == "coreai" for node in lowered.nodes)
    emitted = emit_finalized(stored(lowered, tmp_path))
    assert bits(pytree.tree_leaves(_call(emitted, list(IMAGES)))) == bits(pytree.tree_leaves(finalized(*IMAGES)))


@pytest.mark.parametrize("pipeline", ["palettize", "joint"])
def test_a_graph_survives_after_every_step_of_a_palettization(pipeline, tmp_path):
    found: dict[str, Graph] = {}
    table = QuantizationSpec(dtype=torch.int8, qscheme="symmetric")
    config = KMeansPalettizerConfig(
        global_config=ModuleKMeansPalettizerConfig(
            op_state_spec={"weight": PalettizationSpec(n_bits=2, lut_qspec=table if pipeline == "joint" else None)}
        )
    )
    steps = pipelines.palettize(config) if pipeline == "palettize" else pipelines.joint(config, QuantizerConfig())
    Runner([Collect(found)]).run(from_module(joined(), IMAGES), steps)
    for name, graph in found.items():
        expected = bits(run(graph, IMAGES))
        for again in (read_back(graph), stored(graph, tmp_path)):
            assert bits(run(again, IMAGES)) == expected, name
    assert any(node.op.name == "quant.lut_to_dense" for node in graph.nodes)


def test_frozen_parameters_stay_frozen(tmp_path):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[0].requires_grad_(False)
    graph = from_module(model, (ROWS,))
    for again in (graph, graph.clone(), read_back(graph), stored(graph, tmp_path), copy.deepcopy(graph)):
        emitted = to_graph_module(again, copy_constants=True)
        trained = {name: parameter.requires_grad for name, parameter in emitted.named_parameters()}
        assert trained == {"0.weight": False, "0.bias": False, "1.weight": True, "1.bias": True}
    assert "frozen" in str(graph)


def test_a_clone_has_its_own_copy_of_graphs_that_lie_in_tuples():
    def body(value: float) -> Graph:
        graph = Graph()
        graph.add_output(graph.add_constant("w", torch.tensor(value), "literal").value)
        return graph

    graph = Graph()
    graph.insert(lookup_op("hop.cond"), {}, {"arg1": (body(1.0), {"deeper": [body(2.0)]})}, ())
    copied = graph.clone()
    assert difference(graph, copied) is None
    ours, theirs = list(nested_graphs(graph)), list(nested_graphs(copied))
    assert len(ours) == len(theirs) == 3
    assert not {id(each) for each in ours} & {id(each) for each in theirs}


# other processes

LOADER = """
import sys
from pathlib import Path

import torch

from graphpress.ir import load_graph, run, to_graph_module, verify
from graphpress.ir.errors import GraphpressError

torch.set_num_threads(1)
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.gir")):
    try:
        graph = load_graph(path)
        verify(graph)
        found[path.stem] = run(graph, torch.load(path.with_suffix(".pt"), weights_only=False))
        to_graph_module(graph)
    except GraphpressError as error:
        found[path.stem + " error"] = f"{type(error).__name__}: {error}"
torch.save(found, sys.argv[2])
"""


def loaded_elsewhere(saved: dict[str, tuple[Graph, list[Any]]], folder: Path) -> dict[str, Any]:
    """What another process, which imports `graphpress.ir` alone, makes of saved graphs and their inputs."""
    for name, (graph, inputs) in saved.items():
        save_graph(graph, folder / f"{name}.gir")
        torch.save(inputs, folder / f"{name}.pt")
    results = folder / "results.pt"
    subprocess.run([sys.executable, "-c", LOADER, str(folder), str(results)], check=True)
    return torch.load(results, weights_only=False)


def test_another_process_reads_graphs_of_every_step_and_computes_the_same_bits(monkeypatch, tmp_path):
    names = ("Condition", "DynamicImage", "KeyValueCache", "TiedEmbedding", "Attention", "AutocastRegion")
    saved = {name: (captured(name), flat_inputs(name)) for name in names}
    for config in ("int8", "int4"):
        steps, _ = graphs_of_a_quantization(CONFIGS[config](), monkeypatch)
        saved |= {f"{config} {step}": (graph, list(IMAGES)) for step, graph in steps.items()}
    found = loaded_elsewhere(saved, tmp_path)
    assert found.keys() == saved.keys()
    for name, (graph, inputs) in saved.items():
        assert bits(found[name]) == bits(run(graph, inputs)), name


@annotation("round-trip-note")
@frozen
class Unknown:
    """What no other process knows of."""

    text: str = ""


def test_another_process_is_told_what_it_must_import(tmp_path):
    noted = captured("ConvBnInplaceRelu").clone()
    noted.node("conv2d").annotations[Unknown] = Unknown("x")
    saved = {"Noted": noted} | {name: captured(name) for name in ("CustomOpThatWrites", "NamedResults")}
    inputs = {"Noted": flat_inputs("ConvBnInplaceRelu"), "CustomOpThatWrites": [ROWS], "NamedResults": [ROWS]}
    found = loaded_elsewhere({name: (graph, inputs[name]) for name, graph in saved.items()}, tmp_path)
    assert bits(found.pop("NamedResults")) == bits(
        run(saved["NamedResults"], [ROWS])
    )  # only calling it needs the class
    noted_error, custom_error, named_error = (found.pop(f"{name} error") for name in saved)
    assert not found
    assert "no annotation 'round-trip-note'; import the module that defines it first" in noted_error
    assert "no op 'graphpress_tests.bump'; import the module that registers it first" in custom_error
    assert "tests.ir.zoo.Pair, which is not imported: import 'tests.ir.zoo' first" in named_error


# how calls nest


def test_named_tuples_and_dataclasses_have_a_text_form():
    signature = captured("NamedResults").signature
    assert "python:tests.ir.zoo:Pair" in signature.out_spec
    assert "python:tests.ir.zoo:Prediction" in signature.out_spec
    rebuilt = pytree.tree_unflatten([1, 2, 3, 4], load_spec(signature.out_spec))
    assert rebuilt[0] == Pair(1, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "not a pytree spec"),
        ('[1, {"type": "builtins.tuple"}]', "not a pytree spec"),
        ('[1, {"type": "builtins.tuple", "context": "null", "children_spec": [3]}]', "not a pytree spec"),
        (
            '[1, {"type": "python:os:system", "context": "null", "children_spec": []}]',
            "os.system is not a pytree class",
        ),
        ('[1, {"type": "nobody.knows", "context": "null", "children_spec": []}]', "no pytree class is registered as"),
    ],
)
def test_a_spec_that_cannot_be_read_is_a_clear_error(spec, message):
    with pytest.raises(TreeSpecError, match=message):
        load_spec(spec)


def test_a_spec_never_imports_anything():
    context = {"default_factory_module": "this", "default_factory_name": "d", "dict_context": []}
    spec = json.dumps([1, {"type": "collections.defaultdict", "context": context, "children_spec": []}])
    with pytest.raises(TreeSpecError, match="default factory 'd' is not imported"):
        load_spec(spec)
    assert "this" not in sys.modules


def test_a_signature_that_is_no_spec_is_found_by_the_verifier():
    graph = captured("Identity").clone()
    graph.signature.out_spec = "nonsense"
    with pytest.raises(VerificationError, match="in its signature, not a pytree spec"):
        verify(graph)


# names and calls of emitted modules


class OddNames(nn.Module):
    """Modules and buffers that Python cannot spell as attributes."""

    def __init__(self):
        super().__init__()
        self.add_module("in", nn.Linear(6, 6))
        self.add_module("\N{MASCULINE ORDINAL INDICATOR}", nn.Linear(6, 6))
        self.register_buffer('quo"te', torch.ones(6))
        self.register_buffer("back\\slash", torch.ones(6))

    def forward(self, x):
        for module in self.children():
            x = module(x)
        for buffer in self.buffers():
            x = x + buffer
        return x


def test_names_that_python_cannot_spell_are_made_safe(tmp_path):
    model = OddNames().eval()
    graph = stored(from_module(model, (ROWS,)), tmp_path)
    emitted = to_graph_module(graph)
    assert bits([_call(emitted, [ROWS])]) == bits([_call(model, [ROWS])])
    assert len(emitted.state_dict()) == len(model.state_dict())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((ROWS[:, :3],), r"x was float32\[4, 6\], is float32\[4, 3\] \(.*mat1 and mat2"),
        ((ROWS.double(),), r"x was float32\[4, 6\], is float64\[4, 6\]"),
        (("text",), "x was .*, is a str"),
        ((), r"it takes 1 \(x\), got 0"),
        ((ROWS, ROWS), r"it takes 1 \(x\), got 2"),
    ],
)
def test_a_module_that_fails_on_other_inputs_than_it_was_captured_with_says_so(inputs, message):
    emitted = to_graph_module(captured("SharedModule"))
    for module in (emitted, copy.deepcopy(emitted), pickle.loads(pickle.dumps(emitted))):
        with pytest.raises(CallError, match=message) as caught:
            module(*inputs)
        assert caught.value.__cause__ is not None
    assert emitted(ROWS[:2]).shape == (2, 6)


def test_an_error_that_the_inputs_do_not_explain_stays_as_it_is():
    class Refusing(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    emitted = to_graph_module(
        captured("SharedModule"),
        module_for=lambda node: ("gelu", Refusing(), [node.operands["self"]]) if node.name == "gelu" else None,
    )
    with pytest.raises(ZeroDivisionError):
        emitted(ROWS)
