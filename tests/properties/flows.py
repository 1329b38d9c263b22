"""Whole flows over a module: compress, convert, check; with the properties that they keep, and their oracles."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphpress.backends import coreai, coreml
from graphpress.casting import cast_to_16_bit_precision
from graphpress.ir import difference, from_module, parse_graph, print_graph, run, verify
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig
from graphpress.pruning import MagnitudePruner, MagnitudePrunerConfig
from graphpress.quantization import Quantizer, QuantizerConfig
from tests.properties.generated_modules import Plan

# ways of compressing

Inputs = tuple[Any, ...]


@attrs.frozen
class Compressed:
    """A model before and after `finalize`, and whether only the memory layout of weights may make a difference."""

    prepared: nn.Module
    finalized: nn.Module
    is_exact: bool


def _quantizer(spec: Mapping[str, Any] | None, activations: Any = "default", **top: Any) -> QuantizerConfig:
    entry: dict[str, Any] = {"op_state_spec": None if spec is None else {"weight": dict(spec)}}
    if activations != "default":
        entry |= {"op_input_spec": activations, "op_output_spec": activations}
    top["on_unmatched"] = "ignore"  # modules without any weight
    return QuantizerConfig.from_dict({"quantization_config": {"global_config": entry, **top}})


def _palettizer(**spec: Any) -> KMeansPalettizerConfig:
    states = {"weight": spec, "in_proj_weight": spec}
    return KMeansPalettizerConfig.from_dict(
        {"kmeans_palettization_config": {"global_config": {"op_state_spec": states}, "on_unmatched": "ignore"}}
    )


CHANNEL = {"type": "per_channel"}
INT8 = {"dtype": "int8", "qscheme": "symmetric"}
CODES = {"qscheme": "symmetric_with_clipping"}
QUANTIZERS: dict[str, QuantizerConfig] = {
    "w8a8": QuantizerConfig(on_unmatched="ignore"),
    "w8a8 eager": QuantizerConfig(execution_mode="eager", on_unmatched="ignore"),
    "w4a8 asymmetric": _quantizer(
        {"dtype": "uint4", "qscheme": "asymmetric", "granularity": CHANNEL},
        {"*": {"dtype": "uint8", "qscheme": "asymmetric", "qparam_calculator_cls": "histogram"}},
    ),
    "w8": _quantizer({"dtype": "int8", "granularity": CHANNEL, **CODES}, None),
    "w4": _quantizer({"dtype": "int4", "granularity": CHANNEL, **CODES}, None),
    "w4 eager": _quantizer({"dtype": "int4", "granularity": CHANNEL, **CODES}, None, execution_mode="eager"),
    "w4 blocks": _quantizer({"dtype": "int4", "granularity": {"type": "per_block", "block_size": 4}, **CODES}, None),
}
PALETTIZERS: dict[str, KMeansPalettizerConfig] = {
    "p4": _palettizer(n_bits=4),
    "p2 groups": _palettizer(n_bits=2, granularity={"type": "per_grouped_channel", "axis": 0, "group_size": 4}),
    "p3 scaled": _palettizer(n_bits=3, enable_per_channel_scale=True),
    "p2 vectors": _palettizer(n_bits=2, cluster_dim=2),
    "p4 int8": _palettizer(n_bits=4, lut_qspec=INT8),
}
PRUNERS: dict[str, MagnitudePrunerConfig] = {"half": MagnitudePrunerConfig(on_unmatched="ignore")}
ACTIVATIONS_ONLY = _quantizer(None)
WEIGHT_BITS = {"w8": 8, "w4": 4, "w4 eager": 4, "w4 blocks": 4}
FLOWS = (
    *QUANTIZERS,
    *PALETTIZERS,
    *PRUNERS,
    "joint",
    "joint int8",
    "pruned p4",
    "pruned w8",
    "pruned w8a8",
    "float",
)


def compress(flow: str, model: nn.Module, inputs: Inputs, data: list[Inputs]) -> Compressed:
    """Compress `model` by a flow, with calibration on `data`."""
    if flow == "float":
        return Compressed(model, model, is_exact=True)
    if flow in QUANTIZERS:
        return _quantize(QUANTIZERS[flow], model, inputs, data, is_exact=flow in WEIGHT_BITS)
    if flow in PALETTIZERS:
        return _once(KMeansPalettizer(model, PALETTIZERS[flow]), inputs)
    if flow in PRUNERS:
        return _once(MagnitudePruner(model, PRUNERS[flow]), inputs)
    first, then = {
        "joint": ("p4", ACTIVATIONS_ONLY),
        "joint int8": ("p4 int8", ACTIVATIONS_ONLY),
        "pruned p4": ("half", PALETTIZERS["p4"]),
        "pruned w8": ("half", QUANTIZERS["w8"]),
        "pruned w8a8": ("half", QUANTIZERS["w8a8"]),
    }[flow]
    before = compress(first, model, inputs, data).finalized
    if isinstance(then, KMeansPalettizerConfig):
        return _once(KMeansPalettizer(before, then), inputs)
    return _quantize(then, before, inputs, data, is_exact=flow == "pruned w8")


def _quantize(
    config: QuantizerConfig, model: nn.Module, inputs: Inputs, data: list[Inputs], *, is_exact: bool
) -> Compressed:
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare(inputs, leave_indivisible=True)
    with quantizer.calibration_mode():
        for batch in data:
            prepared(*batch)
    return Compressed(prepared, quantizer.finalize(), is_exact)


def _once(compressor: KMeansPalettizer | MagnitudePruner, inputs: Inputs) -> Compressed:
    options = {"leave_indivisible": True} if isinstance(compressor, KMeansPalettizer) else {}
    prepared = compressor.prepare(inputs, **options)
    return Compressed(prepared, compressor.finalize(), is_exact=True)


# comparisons


def outputs(model: nn.Module, inputs: Inputs) -> Any:
    """Return what a copy of `model` in eval mode returns, so that its buffers stay."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(*copy.deepcopy(inputs))


def worst(found: Any, wanted: Any) -> float:
    """Return the largest root mean square of an output's difference, in units of the wanted output's.

    Outputs of another structure, dtype or shape raise.
    """
    leaves, spec = pytree.tree_flatten(found)
    others, other_spec = pytree.tree_flatten(wanted)
    assert spec == other_spec, f"structure {spec} instead of {other_spec}"
    return max((_error(*pair) for pair in zip(leaves, others, strict=True)), default=0.0)


def _error(found: Any, wanted: Any) -> float:
    if not isinstance(wanted, Tensor):
        assert found is wanted or found == wanted, f"{found!r} instead of {wanted!r}"
        return 0.0
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), (
        f"{found.dtype} {tuple(found.shape)} instead of {wanted.dtype} {tuple(wanted.shape)}"
    )
    a, b = found.double(), wanted.double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    size = b[b.isfinite()].square().mean().sqrt().item() or 1.0
    return float(torch.where(same, 0.0, a - b).square().mean().sqrt() / size)


# the user's model and inputs


@contextmanager
def left_alone(model: nn.Module, *others: Any) -> Iterator[None]:
    """Assert that the body changes nothing of a model, nor of tensors in `others`, nor of torch's global state."""
    before = _everything(model, others)
    tensors = {name: tensor.detach().clone() for name, tensor in before.items() if isinstance(tensor, Tensor)}
    yield
    after = _everything(model, others)
    assert list(before) == list(after), f"names changed: {sorted(set(before) ^ set(after))}"
    for name, held in before.items():
        if isinstance(held, Tensor):
            assert after[name] is held, f"{name} is another object"
            assert _error(held.detach(), tensors[name]) == 0, f"{name} has other values"
        else:
            assert after[name] == held, f"{name} was {held}, is {after[name]}"


def _everything(model: nn.Module, others: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[f"{path} class"] = type(module)
        found[f"{path} attributes"] = sorted(vars(module))
        found[f"{path} training"] = module.training
        hooks = {name: len(held) for name, held in vars(module).items() if name.endswith("_hooks")}
        found[f"{path} hooks"] = hooks
        for name, held in (*module._parameters.items(), *module._buffers.items()):
            found[f"{path} {name}"] = held
            if held is not None:
                found[f"{path} {name} state"] = (held.requires_grad, held.grad is None, held.dtype, type(held))
    for place, leaf in enumerate(pytree.tree_leaves(others)):
        found[f"input {place}"] = leaf
    found["global"] = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
    found["random"] = torch.get_rng_state().tolist()
    return found


# references


def with_dequantized_weights(model: nn.Module, bits: int, block: int | None) -> dict[str, Tensor]:
    """Return the weights of layers, rounded to symmetric codes of a scale per channel or block, by the formula."""
    most, found = 2 ** (bits - 1) - 1, {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.ndim < 2:
            continue
        transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
        w = weight.detach().float()
        if transposed:  # (in, out of a group, ...)
            w = w.transpose(0, 1)
        if block is None:
            scale = w.abs().amax(tuple(range(1, w.ndim)), keepdim=True) / most
        elif w.shape[1] % block:
            continue
        else:
            parts = w.unflatten(1, (-1, block))
            scale = parts.abs().amax(tuple(range(2, parts.ndim)), keepdim=True) / most
            scale = scale.expand_as(parts).flatten(1, 2)
        rounded = torch.where(scale > 0, (w / scale).round().clamp(-most, most) * scale, 0.0)
        found[f"{path}.weight"] = (rounded.transpose(0, 1) if transposed else rounded).to(weight.dtype)
    return found


def by_functional_call(model: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs) -> Any:
    """Run the model's own forward with other weights."""
    held = copy.deepcopy(model).eval()
    tied = {id(parameter): name for name, parameter in held.named_parameters()}
    named = {tied[id(held.get_parameter(name))]: value for name, value in weights.items()}
    with torch.no_grad():
        return torch.func.functional_call(held, named, copy.deepcopy(inputs), tie_weights=True)


# properties


class Broken(AssertionError):
    """A property that does not hold; its name is the first argument."""


def check_text(model: nn.Module, inputs: Inputs) -> None:
    """The captured graph computes what the module does, also after it was printed and parsed."""
    graph = from_module(copy.deepcopy(model), copy.deepcopy(inputs))
    verify(graph)
    data = {name: constant.tensor for name, constant in graph.constants.items() if constant.has_data}
    again = parse_graph(print_graph(graph), data)
    assert (found := difference(graph, again)) is None or not found, f"parsed as another graph: {found}"
    flat = pytree.tree_leaves(inputs)
    wanted = pytree.tree_leaves(outputs(model, inputs))
    for each in (graph, again):
        assert worst(list(run(each, copy.deepcopy(flat))), wanted) == 0, "the graph computes something else"


BACKENDS: dict[str, tuple[Any, str]] = {"coreai": (coreai, "m.aimodel"), "coreml": (coreml, "m.mlpackage")}


def check_backend(backend: str, model: Any, inputs: Inputs, folder: Path) -> None:
    """The saved file computes what the model does."""
    module, name = BACKENDS[backend]
    module.convert(model, folder / name, inputs)
    report = module.check(folder / name, model, inputs)
    assert report.ok, str(report)


def check_cast(backend: str, model: nn.Module, inputs: Inputs, folder: Path) -> None:
    """A program cast to 16 bits computes about the same, and its file what it does."""
    program = torch.export.export(copy.deepcopy(model), copy.deepcopy(inputs))
    cast = cast_to_16_bit_precision(program)
    args, kwargs = cast.example_inputs
    assert not kwargs
    check_backend(backend, cast, args, folder)


@attrs.frozen
class Case:
    """A plan, and the flow that its module goes through."""

    plan: Plan
    flow: str
    backend: str | None = None
    is_cast: bool = False
    trains: bool = False


@contextmanager
def named(name: str) -> Iterator[None]:
    """Name the property, or the stage, in what is raised."""
    try:
        yield
    except Broken:
        raise
    except Exception as error:
        error.add_note(f"while: {name}")
        raise


@contextmanager
def one_path_of_attention() -> Iterator[None]:
    """Have attention compute by the same ops inside and outside of an export."""
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)


def check(case: Case, folder: Path) -> None:
    """Run the flow of a case and assert all properties."""
    plan = case.plan
    model, inputs = plan.build(), plan.inputs()
    if case.trains:
        model.body.train()
    data = [plan.inputs(1), plan.inputs(2)]
    with warnings.catch_warnings(), one_path_of_attention(), left_alone(model, inputs, data):
        warnings.simplefilter("ignore")
        with named("compress"):
            made = compress(case.flow, model, inputs, data)
        _check_compressed(case, model, made, inputs)
        if case.flow == "float":
            with named("text of the model"):
                check_text(model, inputs)
        elif not case.flow.endswith("eager"):
            with named("text of the finalized"):
                check_text(made.finalized, inputs)
        if case.backend is not None and "how='cond'" not in repr(
            plan
        ):  # a limit of the converters, see docs/backends.md
            with named(f"convert to {case.backend}"):
                (check_cast if case.is_cast else check_backend)(case.backend, made.finalized, inputs, folder)


ROUNDING = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1e-2}
LIMITS = {"float": 0.0, "w8": 0.05, "w8a8": 1.0, "w8a8 eager": 1.0}


def _check_compressed(case: Case, model: nn.Module, made: Compressed, inputs: Inputs) -> None:
    plan, flow = case.plan, case.flow
    other = plan.inputs(3, batch=plan.batch + 2)
    for name, values in (("example", inputs), ("another batch", other)):
        with named(f"run the original on the {name}"):
            original = outputs(model, values)
        with named(f"run the prepared on the {name}"):
            prepared = outputs(made.prepared, values)
        with named(f"run the finalized on the {name}"):
            finalized = outputs(made.finalized, values)
        with named(f"finalized against prepared on the {name}"):
            error = worst(finalized, prepared)
            assert error <= (ROUNDING[plan.dtype] if made.is_exact else 0.05), f"off by {error:.2g}"
        with named(f"finalized against the original on the {name}"):
            error = worst(finalized, original)
            assert error <= LIMITS.get(flow, float("inf")), f"off by {error:.2g}"
        if flow in WEIGHT_BITS and plan.dtype == "float32" and not plan.computes_weights:
            with named(f"the formula on the {name}"):
                weights = with_dequantized_weights(model, WEIGHT_BITS[flow], 4 if "blocks" in flow else None)
                error = worst(finalized, by_functional_call(model, weights, values))
                # Scales are rounded up, by at most 2**-15, so that weights near a tie may have the next code.
                assert error <= {8: 4e-3, 4: 0.03}[WEIGHT_BITS[flow]], f"off by {error:.2g}"
        if flow in PALETTIZERS or flow in PRUNERS:
            with named(f"the prepared weights in the original's forward on the {name}"):
                weights = {n: _read(made.prepared, n) for n, _ in model.named_parameters() if n.endswith("weight")}
                error = worst(finalized, by_functional_call(model, weights, values))
                assert error == 0, f"off by {error:.2g}"


def _read(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    found: Callable[..., Any] = getattr(model.get_submodule(path), attribute)
    assert isinstance(found, Tensor)
    return found.detach()
