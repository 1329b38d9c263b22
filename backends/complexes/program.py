"""Rewriting of exported programs into programs of real tensors."""

from __future__ import annotations

import copy
import dataclasses
import operator
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, fx
from torch._export.verifier import load_verifier
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputSpec, TensorArgument
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from graphpress.backends.complexes.pairs import (
    Pair,
    PairedArithmetic,
    UnsupportedComplexOp,
    apply,
    matmul,
    touches_complex,
)
from graphpress.backends.errors import ConversionError
from graphpress.backends.exporting import head, place, quiet

_ACCEPTED = (
    "arithmetic, elementary functions, products of matrices, transforms by torch.fft, stft and istft, and what moves "
    "or adds elements"
)


def with_real_tensors(program: ExportedProgram) -> ExportedProgram:
    """Return `program` with two real tensors in place of each complex one, or itself if it has none.

    Raises:
        ConversionError: for complex inputs, outputs and states, and for operators that have no such form.
    """
    if not any(map(_has_complex_values, program.graph.nodes)):
        return program
    return _Rewriting(_without_writes(program)).result()


def _without_writes(program: ExportedProgram) -> ExportedProgram:
    """Return the program with values in place of writes to tensors, since a write to one part is none to the other."""
    targets = (node.target for node in program.graph.nodes)
    if not any(isinstance(each, torch._ops.OpOverload) and each._schema.is_mutable for each in targets):
        return program
    try:
        with quiet():
            return program.run_decompositions({})
    except Exception as error:
        raise ConversionError(f"torch cannot trace the program without writes to tensors: {head(error)}") from error


def _is_complex_node(node: fx.Node) -> bool:
    return any(isinstance(each, Tensor) and each.is_complex() for each in pytree.tree_leaves(node.meta.get("val")))


def _has_complex_values(node: fx.Node) -> bool:
    """Return True for a node that reads or makes complex values, be it inside the operator."""
    values = fx.node.map_arg((node.args, node.kwargs), lambda each: each.meta.get("val"))
    return _is_complex_node(node) or touches_complex(node.target, *values)


@frozen
class _Parts:
    """The nodes of a complex tensor's parts."""

    re: fx.Node
    im: fx.Node


class _Rewriting:
    """Builds the graph of real tensors node by node."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._signature = copy.deepcopy(program.graph_signature)
        self._state_dict, self._constants = dict(program.state_dict), dict(program.constants)
        self._graph = fx.Graph()
        self._made: dict[fx.Node, Any] = {}
        self._inputs: list[InputSpec] = []
        self._matrices: dict[int, fx.Node] = {}
        self._fake: Any = detect_fake_mode([node.meta.get("val") for node in program.graph.nodes])

    def result(self) -> ExportedProgram:
        """Return the program."""
        specs = iter(self._program.graph_signature.input_specs)
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                self._made[node] = self._placeholder(node, next(specs))
            elif node.op == "output":
                self._output(node)
            elif _has_complex_values(node):
                self._made[node] = self._rewritten(node)
            else:
                self._made[node] = self._graph.node_copy(node, self._made.__getitem__)
        self._signature.input_specs[:] = self._inputs
        module = fx.GraphModule(self._program.graph_module, self._graph)
        module.meta.update(self._program.graph_module.meta)
        self._graph.eliminate_dead_code()
        module.recompile()
        return self._program._update(
            module,
            self._signature,
            state_dict=self._state_dict,
            constants=self._constants,
            verifiers=[load_verifier("TRAINING")],  # torch's decompositions may write to tensors of their own
        )

    def _placeholder(self, node: fx.Node, spec: InputSpec) -> Any:
        if not _is_complex_node(node):
            self._inputs.append(spec)
            return self._graph.node_copy(node)
        if spec.kind is InputKind.USER_INPUT:
            raise ConversionError(
                f"the input {node.name!r} of the model is complex; accepted: real inputs, from which the model makes "
                "complex values by torch.view_as_complex or torch.complex"
            )
        name = str(spec.target)
        if name in self._program.graph_signature.buffers_to_mutate.values():
            raise ConversionError(
                f"the model writes to its complex buffer {name!r}; accepted: a real buffer, read by "
                "torch.view_as_complex"
            )
        held = self._state_dict if name in self._state_dict else self._constants
        tensor = held.pop(name).detach()
        parts = []
        for suffix, part in (("real", tensor.real), ("imag", tensor.imag)):
            placeholder = self._graph.placeholder(f"{node.name}_{suffix}")
            placeholder.meta = {**node.meta, "val": getattr(node.meta["val"], suffix).clone()}
            placeholder.meta.pop("tensor_meta", None)
            target = f"{name}_{suffix}"
            held[target] = part.resolve_neg().contiguous()
            if spec.kind is InputKind.PARAMETER:
                held[target] = torch.nn.Parameter(held[target], requires_grad=False)
            self._inputs.append(dataclasses.replace(spec, arg=TensorArgument(placeholder.name), target=target))
            parts.append(placeholder)
        return _Parts(*parts)

    def _output(self, node: fx.Node) -> None:
        specs = self._signature.output_specs
        for value, (at, spec) in zip(node.args[0], list(enumerate(specs)), strict=True):  # type: ignore[arg-type]
            made = self._made[value] if isinstance(value, fx.Node) else value
            if isinstance(made, _Parts):
                raise ConversionError(
                    f"the model returns a complex tensor, the result of {value.target} {place(value)}; accepted: real "
                    "outputs, such as torch.view_as_real of it"
                )
            if isinstance(made, fx.Node) and isinstance(spec.arg, TensorArgument):
                specs[at] = OutputSpec(spec.kind, TensorArgument(made.name), spec.target)
        self._graph.node_copy(node, self._made.__getitem__)

    def _rewritten(self, node: fx.Node) -> Any:
        """Return what stands for a node: a node, the parts of a complex tensor, or a sequence of such."""
        aten = torch.ops.aten
        if node.target is operator.getitem:
            source, place_of = node.args
            return self._made[source][place_of]  # type: ignore[index]
        if node.target is aten._assert_tensor_metadata.default:
            return None
        if str(node.target).startswith("aten.sym_"):
            return self._graph.node_copy(node, lambda each: _first(self._made[each]))
        if not isinstance(node.target, torch._ops.OpOverload):
            raise self._unsupported(node, UnsupportedComplexOp(node.target))
        try:
            return self._inlined(node, node.target)
        except UnsupportedComplexOp as error:
            raise self._unsupported(node, error) from error
        except ConversionError:
            raise
        except Exception as error:
            raise ConversionError(
                f"complex values of {node.target} {place(node)} have no real form: {type(error).__name__}: "
                f"{head(error)}"
            ) from error

    def _unsupported(self, node: fx.Node, error: UnsupportedComplexOp) -> ConversionError:
        what, name = error.what or "complex values", str(error.operator)
        name = str(node.target) if name.startswith("prims.") else name
        through = "" if name == str(node.target) else f" (a part of {node.target})"
        return ConversionError(
            f"no backend takes {what} in {name}{through} {place(node)}; accepted: {error.accepted or _ACCEPTED}, or "
            "real tensors, by torch.view_as_real"
        )

    def _inlined(self, node: fx.Node, target: Any) -> Any:
        """Trace the operator on the parts of its complex operands, and copy the graph."""
        sources = {each: self._made[each] for each in node.all_input_nodes}
        flat = [part for source in sources.values() for part in _flattened(source)]
        traced, result = _traced(target, node, sources, [part.meta["val"] for part in flat], self._fake)
        given = iter(flat)
        here: dict[fx.Node, Any] = {}
        for each in traced.graph.nodes:
            if each.op == "placeholder":
                here[each] = next(given)
            elif each.op == "get_attr":
                here[each] = self._constant(getattr(traced, each.target))
            elif each.op != "output":
                here[each] = self._graph.node_copy(each, here.__getitem__)
                here[each].meta = _metadata(each, node)
                if each.target is matmul:
                    here[each].target = torch.ops.aten.matmul.default
        (output,) = traced.graph.find_nodes(op="output")
        made = iter([here[value] for value in output.args[0]])
        leaves = [_Parts(next(made), next(made)) if is_pair else next(made) for is_pair in result.are_pairs]
        if len(leaves) == 1 and isinstance(leaves[0], fx.Node) and leaves[0] not in flat:
            leaves[0]._rename(node.name)
        return pytree.tree_unflatten(leaves, result.spec)

    def _constant(self, tensor: Tensor) -> fx.Node:
        """Return the placeholder of a matrix that a rule multiplies by, one for each."""
        if id(tensor) in self._matrices:
            return self._matrices[id(tensor)]
        name = f"complex_factor_{len(self._matrices)}"
        with self._graph.inserting_before(next(iter(self._graph.nodes))):
            placeholder = self._graph.placeholder(name)
        placeholder.meta["val"] = self._fake.from_tensor(tensor, static_shapes=True)
        self._inputs.insert(0, InputSpec(InputKind.BUFFER, TensorArgument(placeholder.name), name, persistent=True))
        self._state_dict[name] = tensor
        self._matrices[id(tensor)] = placeholder
        return placeholder


def _flattened(source: Any) -> list[fx.Node]:
    """Return the nodes of a value; numbers are no operands of an operator on complex tensors."""
    return [source.re, source.im] if isinstance(source, _Parts) else [source]


def _first(source: Any) -> fx.Node:
    return _flattened(source)[0]


def _metadata(traced: fx.Node, node: fx.Node) -> dict[str, Any]:
    """Return the metadata of a new node: its own value, at the place of the old one in the user's model."""
    kept: dict[str, Any] = {
        key: node.meta[key] for key in ("stack_trace", "nn_module_stack", "source_fn_stack") if key in node.meta
    }
    return {**kept, "val": traced.meta.get("val")}


@frozen
class _Result:
    """The structure of an operator's result, and which of its leaves are pairs."""

    spec: Any
    are_pairs: tuple[bool, ...]


def _traced(
    target: Any, node: fx.Node, sources: dict[fx.Node, Any], values: list[Any], fake: Any
) -> tuple[fx.GraphModule, _Result]:
    """Trace an operator of the program as one of real tensors, with the parts of its operands as inputs.

    Args:
        target: the operator.
        node: its node, with its arguments.
        sources: what stands for each of its operands.
        values: the value of each part of them.
        fake: the mode of the program's values.
    """
    found: list[_Result] = []

    def run(*parts: Any) -> list[Any]:
        given = iter(parts)
        operands = {
            each: Pair(next(given), next(given)) if isinstance(source, _Parts) else next(given)
            for each, source in sources.items()
        }
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), operands.__getitem__)
        with PairedArithmetic():
            leaves, spec = pytree.tree_flatten(apply(target, args, kwargs))
        found.append(_Result(spec, tuple(isinstance(leaf, Pair) for leaf in leaves)))
        if any(isinstance(leaf, Tensor) and leaf.is_complex() and not isinstance(leaf, Pair) for leaf in leaves):
            raise UnsupportedComplexOp(target)
        return [part for leaf in leaves for part in ((leaf.re, leaf.im) if isinstance(leaf, Pair) else (leaf,))]

    allowed, fake.allow_non_fake_inputs = fake.allow_non_fake_inputs, True  # constant matrices are real tensors
    try:
        with fake, torch.no_grad():
            return make_fx(run)(*values), found[-1]
    finally:
        fake.allow_non_fake_inputs = allowed
