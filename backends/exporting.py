"""Export of modules for conversion, and decomposition into the converter's ops."""

from __future__ import annotations

import copyreg
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends.comparison import tensors_in
from graphpress.backends.constant_folding import fold_samples
from graphpress.backends.errors import ConversionError, ModelInputError
from graphpress.backends.experts import experts_table
from graphpress.backends.promotion import with_promotions
from graphpress.ir.errors import GraphpressError
from graphpress.ir.torch import to_exported_program
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.capture import ExportError, export_module, from_exported_program
from graphpress.ir.torch.model_checks import ModelError, check_model
from graphpress.passes.framework import Pipeline, Runner


def export(
    model: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any] | None,
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """Trace `model` in eval mode with `torch.export`, and restore its training mode.

    Args:
        model: any exportable module.
        example_inputs: one tensor, the positional arguments, or the arguments by name.
        dynamic_shapes: as for `torch.export.export`.

    Raises:
        ConversionError: if inputs are missing or torch cannot trace the model.
        ModelError: for TorchScript, and for a model without data.
    """
    if example_inputs is None:
        raise ConversionError(
            f"converting a {type(model).__name__} needs example_inputs: a tensor, a tuple of the positional "
            "arguments, or a dict of them by name (an ExportedProgram needs none)"
        )
    args, kwargs = arguments(example_inputs, model)
    check_model(model)
    try:
        with torch.no_grad(), quiet():
            return export_module(model, args, kwargs, dynamic_shapes)
    except ExportError as error:
        raise ConversionError(str(error)) from error.__cause__


class InitialStateWarning(UserWarning):
    """The states of a model start from other values in a saved file, where they are zero."""


def warn_of_initial_states(states: Mapping[str, torch.Tensor]) -> None:
    """Warn, two frames up, about states that do not start at zero, as they do in a saved file."""
    lost = [name for name, initial in states.items() if bool(initial.any())]
    if lost:
        warnings.warn(
            f"states are zero at the first call of a saved file, but these start at other values in the model: "
            f"{', '.join(lost)}; write their values to the states of the loaded file first",
            InitialStateWarning,
            stacklevel=3,
        )


def states_of(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Return the initial values of the states of a functional program, by name."""
    tensors = {**program.state_dict, **program.constants}
    return {name: tensors[name] for name in program.graph_signature.buffers_to_mutate.values()}


def arguments(
    inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any], model: torch.nn.Module | ExportedProgram
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split inputs of `model` into positional and named arguments, in the order of its signature.

    The inputs of a saved file are in this order, whatever the order of a dict.

    Raises:
        ExportError: for inputs of another type.
    """
    found = Arguments.of(inputs)
    if isinstance(model, torch.nn.Module):
        found = found.bound_to(model.forward)
    elif isinstance(model, ExportedProgram):
        _, named = model.call_spec.in_spec.children()
        order = {name: at for at, name in enumerate(named.context or ())}
        names = sorted(found.named, key=lambda name: order.get(name, len(order)))
        found = Arguments(found.positional, {name: found.named[name] for name in names})
    return found.positional, dict(found.named)


def outputs_of(
    model: torch.nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    """Run `model` in eval mode without gradients, restore its buffers, and return the tensors of its outputs.

    Raises:
        ModelError: for another type.
        ModelInputError: if it fails on these arguments.
        NotImplementedError: if torch has no kernel for an op, as for codes of less than 8 bits.
    """
    if not isinstance(model, torch.nn.Module | ExportedProgram):
        raise ModelError(f"expected a module or an ExportedProgram to compare with, got a {type(model).__name__}")
    module = model.module() if isinstance(model, ExportedProgram) else model
    try:
        with torch.no_grad(), unchanged(module):
            return tensors_in(module(*args, **kwargs))
    except NotImplementedError:
        raise
    except Exception as error:
        raise ModelInputError(
            f"{type(model).__name__} does not run on these inputs: {type(error).__name__}: {head(error)}"
        ) from error


def program_of(model: torch.nn.Module | ExportedProgram, inputs: Any) -> ExportedProgram:
    """Return the program of a model; a module is exported (see `export`)."""
    return model if isinstance(model, ExportedProgram) else export(model, inputs)


def rewritten(program: ExportedProgram, pipeline: Pipeline, how: str) -> ExportedProgram:
    """Run passes over a program.

    Raises:
        GraphpressError: of the passes.
        ConversionError: if torch cannot trace the result; the message says that of the program `how`.
    """
    try:
        return to_exported_program(Runner().run(from_exported_program(program), pipeline).graph)
    except GraphpressError:
        raise
    except Exception as error:
        raise ConversionError(f"torch cannot trace the program {how}: {head(error)}") from error


def place(node: fx.Node) -> str:
    """Describe the source of a node: its module path, if any, and the user's source line."""
    path = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    frames = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    module = f"in module {path[-1]!r}" if path and path[-1] else "in the model's own forward"
    return f"{module} ({frames[-1]})" if frames else module


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Run the body with every submodule in eval mode, then restore all modes."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Run the body in eval mode, then restore all modes and the buffers that the model writes to."""
    held = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with in_eval_mode(model):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in held:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence a deprecation warning that torch.export raises about itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=copyreg.__name__)
        yield


def head(error: BaseException, most: int = 600) -> str:
    """Return the start of an error's text, without torch's pages of hints."""
    text = str(error).strip()
    return text if len(text) <= most else text[:most].rstrip() + " ..."


def decompose(
    program: ExportedProgram, table: Mapping[Any, Callable[..., Any]], takes: Callable[[Any], bool], converter: str
) -> ExportedProgram:
    """Return a copy of `program` that uses only ATen ops supported by the converter.

    Ops in `table` are decomposed by it; others that are unsupported, by torch's own decompositions. Type promotion
    becomes explicit: every operand has the dtype that torch computes in. The program is traced once.

    Args:
        program: the program to convert.
        table: decompositions by operator.
        takes: returns whether the converter supports an ATen operator.
        converter: the name of the converter, for the error.

    Raises:
        ConversionError: if an unsupported operator is left; names its source locations.
    """
    try:
        with quiet():
            known = {**_torch_decompositions(takes), **experts_table(), **table}
            program = program.run_decompositions(with_promotions(known))
            _erase_aliases(program)
            fold_samples(program)
    except Exception as error:
        raise ConversionError(f"torch cannot decompose the program: {head(error)}") from error
    if refused := _refused_operators(program, takes):
        places = "; ".join(f"{op} {' and '.join(place(node) for node in nodes[:3])}" for op, nodes in refused.items())
        raise ConversionError(f"{converter} has no lowering for {places}")
    _drop_plain_outputs(program)
    if not program.graph_signature.output_specs:
        raise ConversionError("the model returns no tensor; accepted: a model with at least one output")
    return program


def _drop_plain_outputs(program: ExportedProgram) -> None:
    """Drop outputs that are no tensors, such as a loss that is None, in place: a file has no such outputs."""
    (output,) = program.graph.find_nodes(op="output")
    specs = program.graph_signature.output_specs
    kept = [(value, spec) for value, spec in zip(output.args[0], specs, strict=True) if isinstance(value, fx.Node)]
    if len(kept) < len(specs):
        output.args = (tuple(value for value, _ in kept),)
        specs[:] = [spec for _, spec in kept]
        program.graph_module.recompile()


def _erase_aliases(program: ExportedProgram) -> None:
    """Erase ops that give their operand another name, in place; where one is an output, it becomes a copy."""
    aten = torch.ops.aten
    for node in list(program.graph.nodes):
        if node.target not in (aten.alias.default, torch.ops.prims.view_of.default):
            continue
        if any(user.op == "output" for user in node.users):
            node.target = aten.clone.default
        else:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _torch_decompositions(takes: Callable[[Any], bool]) -> dict[Any, Callable[..., Any]]:
    """Return torch's decompositions of all unsupported operators, into ATen ops rather than primitives."""
    known = {**torch._decomp.decomposition_table, **torch.export.default_decompositions()}
    return {op: known[op] for op in known if _is_lowered(op) and not takes(op)}


def _is_lowered(operator: Any) -> bool:
    """Return True for operators that need a lowering; converters drop assertions themselves."""
    name = str(operator)
    return name.startswith(("aten.", "prims.")) and not name.startswith(("aten._assert", "aten.sym_constrain_range"))


def _refused_operators(program: ExportedProgram, takes: Callable[[Any], bool]) -> dict[Any, list[fx.Node]]:
    """Return the unsupported operators in `program` with their nodes."""
    refused: dict[Any, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and _is_lowered(node.target) and not takes(node.target):
            refused.setdefault(node.target, []).append(node)
    return refused
