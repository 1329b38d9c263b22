"""Import of `torch.export.ExportedProgram`s, with tied tensors as one constant."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node as FxNode

from graphpress.ir.collector import holding_collector
from graphpress.ir.graph import Constant, Graph, Signature, Value
from graphpress.ir.tensors import tensor_identity
from graphpress.ir.text.pytrees import dump_spec, spec_children
from graphpress.ir.torch.body_reader import BodyReader, add_output
from graphpress.ir.torch.export_errors import ExportError, functionalization_error
from graphpress.ir.torch.functionalization import Entangled, explicit_copies, plan_writes
from graphpress.ir.torch.lifted_states import with_states_as_buffers
from graphpress.ir.torch.types import symbols_of, type_of


class ProgramTensors:
    """The program's tensors by name, with the names of each tensor grouped."""

    def __init__(self, program: ExportedProgram):
        non_persistent = set(program.graph_signature.non_persistent_buffers)
        self._tensors: dict[str, Any] = dict(program.state_dict)
        for name, tensor in program.constants.items():
            self._tensors.setdefault(name, tensor)
        self._non_persistent = non_persistent
        self._groups: dict[Any, list[str]] = {}
        literal = {s.target for s in program.graph_signature.input_specs if s.kind is InputKind.CONSTANT_TENSOR}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, torch.Tensor) and name not in literal:
                self._groups.setdefault(tensor_identity(tensor), []).append(name)
        self._constants: dict[Any, Constant] = {}

    def constant(self, graph: Graph, spec: Any) -> Constant:
        """Return the constant of `graph` for an input spec."""
        tensor = self._tensors[spec.target]
        key = spec.target if spec.kind is InputKind.CONSTANT_TENSOR else tensor_identity(tensor)
        if key not in self._constants:
            if spec.kind is InputKind.CONSTANT_TENSOR:
                made = graph.add_constant(spec.target, tensor, "literal")
            else:
                names = self._groups[key]
                kind = "parameter" if isinstance(tensor, torch.nn.Parameter) else "buffer"
                persistent = any(name not in self._non_persistent for name in names)
                made = graph.add_constant(names[0], tensor, kind, names, persistent=persistent)
            self._constants[key] = made
        return self._constants[key]

    def constant_named(self, graph: Graph, name: str) -> Constant:
        """Return the constant called `name` in the program, created if no node reads it."""
        tensor = self._tensors[name]
        key = tensor_identity(tensor)
        if key not in self._constants:
            names = self._groups[key]
            persistent = any(n not in self._non_persistent for n in names)
            self._constants[key] = graph.add_constant(names[0], tensor, "buffer", names, persistent=persistent)
        return self._constants[key]


@holding_collector
def from_exported_program(program: ExportedProgram) -> Graph:
    """Import an exported program; the graph shares its tensors.

    Unused parameters are dropped. Writes to buffers and inputs become mutation outputs. Programs that write through
    views are functionalized by torch first, which traces them again.

    Raises:
        ExportError: if torch cannot functionalize the writes, and for something else than a program.
    """
    if not isinstance(program, ExportedProgram):
        raise ExportError(
            f"expected an ExportedProgram, got a {type(program).__name__}; from_module(module, example_inputs) "
            "captures a module"
        )
    program = with_states_as_buffers(program)
    try:
        return _read_program(program, allow_writes=False)
    except Entangled:
        program = _functionalized(program)
    try:
        return _read_program(program, allow_writes=False)
    except Entangled:  # torch failed too: the writes stay, and passes skip them
        return _read_program(program, allow_writes=True)


def _functionalized(program: ExportedProgram) -> ExportedProgram:
    with warnings.catch_warnings(), explicit_copies(program):
        warnings.simplefilter("ignore", FutureWarning)  # torch uses its own deprecated names
        try:
            return program.run_decompositions({})
        except Exception as error:
            raise functionalization_error(error) from error


def _read_program(program: ExportedProgram, allow_writes: bool) -> Graph:
    fx_graph = program.graph
    graph = Graph("main")
    graph.symbols = symbols_of(program.range_constraints, (node.meta.get("val") for node in fx_graph.nodes))
    reader = BodyReader(graph, program.graph_module, {} if allow_writes else plan_writes(fx_graph.nodes), allow_writes)
    tensors = ProgramTensors(program)
    inputs: dict[str, Value] = {}
    sources: dict[int, tuple[str, Value]] = {}  # cell of a placeholder -> mutation kind, target
    placeholders = (node for node in fx_graph.nodes if node.op == "placeholder")
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            value = _add_input(graph, node, spec.arg)
            reader.bind(node, value)
            if isinstance(value, Value):
                inputs[node.name] = value
                sources[id(reader.cells.get(node))] = "input_mutation", value
        elif spec.kind is InputKind.CUSTOM_OBJ:
            reader.bind(node, program.constants.get(spec.target))
        elif spec.kind is InputKind.TOKEN:
            reader.bind(node, None)
        elif node.users:
            constant = tensors.constant(graph, spec)
            reader.bind(node, constant.value)
            sources[id(reader.cells.get(node))] = "buffer_mutation", constant.value
    results = reader.read(fx_graph.nodes)
    mutations = []
    for item, spec in zip(results, program.graph_signature.output_specs, strict=True):
        if spec.kind in (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT):
            add_output(graph, item)
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            mutations.append((item, "input_mutation", inputs[spec.target]))
        elif spec.kind.name in ("BUFFER_MUTATION", "PARAMETER_MUTATION"):  # the second is missing in older torch
            mutations.append((item, "buffer_mutation", tensors.constant_named(graph, spec.target).value))
    for item, kind, target in mutations:
        graph.add_output(reader.fit(item, target), kind, target=target)
    for cell in dict.fromkeys(reader.cells.values()):
        if cell.outside and cell.is_written and cell.value is not None:
            kind, target = sources[id(cell)]
            if cell.value is not target:
                graph.add_output(cell.value, kind, target=target)
    graph.signature = _signature(program)
    return graph


def _add_input(graph: Graph, node: FxNode, argument: Any) -> Value | Any:
    if type(argument).__name__ == "ConstantArgument":
        literal = argument.value
        graph.add_input(node.name, literal=literal)
        return literal
    return graph.add_input(node.name, type_of(node.meta.get("val"))).value


def _signature(program: ExportedProgram) -> Signature | None:
    call = program.module_call_graph[0].signature
    if call is None:
        return None
    names = getattr(call, "forward_arg_names", None)
    if not names:
        positional, keywords = spec_children(call.in_spec)
        names = [f"arg_{i}" for i in range(positional.num_children)] + list(keywords.context or ())
    return Signature(tuple(names), dump_spec(call.in_spec), dump_spec(call.out_spec))
