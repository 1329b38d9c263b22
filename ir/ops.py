"""The op table: names, parameters and traits of operations.

Names are ``dialect.op`` or ``dialect.op.overload`` (the overload ``default`` is omitted): ``aten.conv2d``,
``aten.add.Tensor``, ``quant.lut_to_dense``, ``sym.mul``. Torch ops are looked up in torch on demand; other dialects
register their ops with `register_op`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from functools import cached_property
from typing import Any

import torch
from attrs import evolve, field, frozen

from graphpress.ir.accepted_ops import refusal
from graphpress.ir.annotations import load_vocabularies
from graphpress.ir.aten_traits import Trait, traits_of_aten
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.symbolic_ops import SYMBOLIC_FUNCTIONS

__all__ = ["OpDef", "OpError", "Parameter", "Trait", "lookup_op", "register_op", "registered_ops"]


class OpError(GraphpressError, LookupError):
    """An unknown operation name, or one that is already registered."""


class _Required(Enum):
    REQUIRED = auto()

    def __repr__(self) -> str:
        return "<required>"


REQUIRED = _Required.REQUIRED


def _trait_set(traits: Iterable[Trait]) -> frozenset[Trait]:
    return frozenset(traits)


@frozen
class Parameter:
    """One parameter of an op: its name and default."""

    name: str
    default: Any = REQUIRED
    keyword_only: bool = False

    @property
    def is_required(self) -> bool:
        """True if there is no default."""
        return self.default is REQUIRED


@frozen(eq=False)
class OpDef:
    """The definition of an operation.

    Attributes:
        name: the full name.
        parameters: in schema order; empty with `variadic` for ops that take any number of operands.
        traits: properties that passes may rely on.
        target: the callable that runs the op on tensors and that an exported torch graph calls; None for an op that
            only the interpreter runs, through `evaluate`.
        evaluate: the reference implementation, where it differs from `target`.
        infer: infers result types from operand types and attributes, where torch cannot.
        result_count: number of results; None if it depends on the node (an op that returns a list).
        returns_sequence: True if torch returns a tuple or list, of any length.
    """

    name: str
    parameters: tuple[Parameter, ...] = ()
    traits: frozenset[Trait] = field(default=frozenset(), converter=_trait_set)
    target: Callable[..., Any] | None = None
    evaluate: Callable[..., Any] | None = None
    infer: Callable[..., Any] | None = None
    result_count: int | None = 1
    returns_sequence: bool = False
    variadic: bool = False

    @cached_property
    def dialect(self) -> str:
        """The part of the name before the first dot."""
        return self.name.partition(".")[0]

    @cached_property
    def short_name(self) -> str:
        """The op without dialect and overload, such as ``conv2d`` for ``aten.conv2d.padding``."""
        return self.name.split(".")[1]

    @cached_property
    def family(self) -> str:
        """The op type used in configs: the short name without in-place underscore; ``cat`` is ``concat``."""
        name = self.short_name
        name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        return "concat" if name in ("cat", "concatenate") else name

    @cached_property
    def by_name(self) -> dict[str, Parameter]:
        """The parameters by name."""
        return {parameter.name: parameter for parameter in self.parameters}

    @cached_property
    def is_pure(self) -> bool:
        """True if a run has no effect besides its results."""
        return Trait.EFFECT not in self.traits and Trait.IN_PLACE not in self.traits

    @cached_property
    def is_repeatable(self) -> bool:
        """True if the op is pure and the same operands always give the same results."""
        return self.is_pure and self.traits.isdisjoint((Trait.RANDOM, Trait.OPAQUE, Trait.SYMBOLIC))

    def has(self, trait: Trait) -> bool:
        """Return True if the op has `trait`."""
        return trait in self.traits

    def default(self, name: str) -> Any:
        """Return the default of parameter `name`.

        Raises:
            OpError: when there is no such parameter or no default.
        """
        parameter = self.by_name.get(name)
        if parameter is None:
            raise OpError(f"{self.name} has no parameter {name!r}{suggestion(name, self.by_name)}")
        if parameter.is_required:
            raise OpError(f"{self.name} needs a value for {name!r}")
        return parameter.default

    def bind(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Combine positional and keyword arguments into one mapping by parameter name.

        Raises:
            OpError: if there are too many positional arguments.
        """
        args = tuple(args)
        if self.variadic:
            return {f"arg{i}": value for i, value in enumerate(args)} | dict(kwargs)
        if len(args) > len(self.parameters):
            raise OpError(f"{self.name} takes {len(self.parameters)} arguments, got {len(args)}")
        return {p.name: value for p, value in zip(self.parameters, args, strict=False)} | dict(kwargs)

    def unbind(self, bound: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Split a mapping by parameter name into positional and keyword arguments.

        Gaps are filled with defaults, and trailing defaults are omitted.
        """
        if self.variadic:
            positional = [bound[f"arg{i}"] for i in range(len(bound)) if f"arg{i}" in bound]
            return positional, {k: v for k, v in bound.items() if not (k.startswith("arg") and k[3:].isdigit())}
        positional_count = 0
        for place, parameter in enumerate(self.parameters):
            if parameter.name in bound and not parameter.keyword_only:
                positional_count = place + 1
        args = [bound.get(p.name, None if p.is_required else p.default) for p in self.parameters[:positional_count]]
        kwargs = {p.name: bound[p.name] for p in self.parameters[positional_count:] if p.name in bound}
        return args, kwargs

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self) -> Any:
        return process_op, (self.name,)


def _load_own() -> None:
    importlib.import_module("graphpress.ir.quant_ops")  # registers its ops on import


_OPS: dict[str, OpDef] = {}
_ACCEPTED: set[str] = set()  # names that `refusal` accepted
_DIALECTS: dict[str, Callable[[], None]] = {"quant": _load_own, "fold": _load_own}
_TORCH_DIALECTS = frozenset({"aten", "prims", "sym", "hop"})


def register_op(op: OpDef) -> OpDef:
    """Add an op to the table.

    Raises:
        OpError: when the name is taken.
    """
    if op.name in _OPS:
        raise OpError(f"op {op.name!r} is already registered")
    _OPS[op.name] = op
    return op


def register_dialect(name: str, load: Callable[[], None]) -> None:
    """Register `load`, which is called when an unknown op of the dialect `name` is looked up.

    Unused dialects thus cost nothing. `load` registers the ops, with torch or by `register_op`, or raises a
    `GraphpressError` that names what is missing.
    """
    _DIALECTS[name] = load


def _load_dialect(name: str) -> None:
    load = _DIALECTS.pop(name, None)  # popped first, because `load` may look up its own ops
    if load is None:
        return
    try:
        load()
    except BaseException:
        _DIALECTS[name] = load
        raise


def registered_ops() -> tuple[OpDef, ...]:
    """Return every op looked up or registered so far."""
    return tuple(_OPS.values())


def lookup_op(name: str) -> OpDef:
    """Return the op called `name`, which may come from a file.

    Raises:
        OpError: when neither the table nor torch knows it, with near names, or when files may not name it.
    """
    if name not in _OPS or name not in _ACCEPTED:
        reason = refusal(name)
        if reason is not None:
            raise OpError(reason if _is_refused_by_choice(name) else f"no op {name!r}{suggestion(name, _OPS)}")
        found = process_op(name)
        _ACCEPTED.add(name)
        return found
    return _OPS[name]


def _is_refused_by_choice(name: str) -> bool:
    """Return False for a name of `aten` or `prims` that torch does not have either."""
    dialect, _, rest = name.partition(".")
    packet = rest.partition(".")[0]
    return dialect not in ("aten", "prims") or bool(torch._C._jit_get_schemas_for_operator(f"{dialect}::{packet}"))


def process_op(name: str) -> OpDef:
    """Return the op called `name`, for names from this process: captured models, and their pickles.

    Raises:
        OpError: when neither the table nor torch knows it; the message lists near names.
    """
    found = _OPS.get(name)
    if found is None:
        dialect = name.partition(".")[0]
        if dialect not in _TORCH_DIALECTS:
            load_vocabularies()
        _load_dialect(dialect)
        found = _OPS.get(name) or _find(name)
        _OPS[name] = found
    return found


def op_of_target(target: Callable[..., Any]) -> OpDef:
    """Return the op for a call target of a torch graph.

    `target` is an `OpOverload`, a higher-order op, or a function on symbolic numbers.

    Raises:
        OpError: if `target` is none of these.
    """
    if isinstance(target, torch._ops.OpOverload):
        return process_op(_name_of(target))
    if isinstance(target, torch._ops.HigherOrderOperator):
        return process_op(f"hop.{target.name()}")
    for name, function in SYMBOLIC_FUNCTIONS.items():
        if function is target:
            return process_op(f"sym.{name}")
    raise OpError(f"function {target!r} has no op")


def _name_of(overload: torch._ops.OpOverload) -> str:
    name = overload._schema.name.replace("::", ".")
    return name if overload._overloadname == "default" else f"{name}.{overload._overloadname}"


def _find(name: str) -> OpDef:
    dialect, _, rest = name.partition(".")
    if dialect == "sym" and rest in SYMBOLIC_FUNCTIONS:
        return OpDef(name, target=SYMBOLIC_FUNCTIONS[rest], variadic=True, traits={Trait.SYMBOLIC})
    if dialect == "hop":
        target = _higher_order(rest)
        if target is not None:
            return OpDef(
                name,
                target=target,
                variadic=True,
                result_count=None,
                returns_sequence=True,
                traits={Trait.OPAQUE},
            )
    packet_name, _, overload_name = rest.partition(".")
    packet = getattr(getattr(torch.ops, dialect, None), packet_name, None) if dialect and packet_name else None
    overload = getattr(packet, overload_name or "default", None) if packet is not None else None
    if not isinstance(overload, torch._ops.OpOverload):
        near = suggestion(name, _OPS)
        foreign = packet_name and dialect not in {*_TORCH_DIALECTS, *(op.dialect for op in _OPS.values())}
        advice = "; import the module that registers it first" if foreign and not near else near
        raise OpError(f"no op {name!r}{advice}")
    return _from_overload(name, overload)


def _higher_order(name: str) -> Callable[..., Any] | None:
    found = None if name.startswith("__") else getattr(torch.ops.higher_order, name, None)
    return found if isinstance(found, torch._ops.HigherOrderOperator) else None


def _from_overload(name: str, overload: torch._ops.OpOverload) -> OpDef:
    schema = overload._schema
    parameters = tuple(
        Parameter(
            argument.name,
            _plain_default(argument.default_value) if argument.has_default_value() else REQUIRED,
            argument.kwarg_only,
        )
        for argument in schema.arguments
    )
    returns = schema.returns
    returns_list = len(returns) == 1 and str(returns[0].type).startswith("List[")
    return OpDef(
        name,
        parameters,
        traits=traits_of_aten(overload),
        target=overload,
        result_count=None if returns_list else len(returns),
        returns_sequence=returns_list or len(returns) > 1,
    )


def _plain_default(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def with_evaluate(op: OpDef, evaluate: Callable[..., Any]) -> OpDef:
    """Replace the entry of `op` by one that the interpreter runs through `evaluate`.

    For third-party ops that torch cannot run on every element type. Element types are passed as `DType`.
    """
    _OPS[op.name] = evolve(op, evaluate=evaluate)
    return _OPS[op.name]
