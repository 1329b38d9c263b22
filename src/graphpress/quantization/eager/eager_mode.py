"""Eager mode of the quantizer, with observed calls and computed parameters."""

from __future__ import annotations

from typing import Any

import attrs
from torch import nn
from torch.export import ExportedProgram

from graphpress.backends.coreai import register
from graphpress.backends.errors import CoreMLExportError
from graphpress.compressor import copies
from graphpress.copying import copy_of, uncompiled
from graphpress.eager import CallObserver, OpCall, detached, module_scopes
from graphpress.eager.observing import observe, undisturbed
from graphpress.eager.recording import Recorder, Recording
from graphpress.export_backend import ExportBackend
from graphpress.ir.torch.arguments import Arguments
from graphpress.modules.coreai_form import store
from graphpress.modules.dense_form import store_dense
from graphpress.modules.metadata_form import store_described
from graphpress.modules.restoring import with_masked_floats
from graphpress.modules.surgery import copied, placed
from graphpress.passes.config import (
    ConfigResolver,
    InvalidExecutionModeError,
    OpSite,
    report_unmatched,
)
from graphpress.passes.weights.errors import QuantizationError
from graphpress.programs import Model
from graphpress.quantization.eager.activations import settle_for_coreai, settle_for_coreml, settle_for_torch
from graphpress.quantization.eager.forms import FakeQuantized, install_quantized
from graphpress.quantization.eager.placing import overridden, place_boundary, place_op, quantizes_activations, site_of
from graphpress.quantization.eager.quantized_module import HeldQuantizers, behaviour_for, holder_in
from graphpress.quantization.eager.quantizing import BOUNDARY, QuantizingObserver
from graphpress.quantization.eager.weights import StatePlan, plan_weights
from graphpress.quantization.execution import Execution, refuse_dynamic
from graphpress.quantization.switches import quantizers_of


class EagerExecution(Execution):
    """Quantization of a module without capturing a graph.

    ``prepare`` copies the model and records one run of the copy. Every op gets quantizers by the config, and every
    weight is read through a fake-quantizer. The copy has the class, structure and names of the user's model.
    """

    def prepare(
        self,
        model: Model,
        arguments: Arguments,
        dynamic_shapes: Any,
        *,
        no_grad: bool,
        strict: bool,
        copy: bool | None,
        leave_indivisible: bool | None,
    ) -> nn.Module:
        """See the base class; `dynamic_shapes`, `no_grad` and `strict` concern capturing and have no effect."""
        if isinstance(model, ExportedProgram):
            raise InvalidExecutionModeError(
                "execution_mode 'eager' runs the model's Python code, which an exported program no longer has; "
                "accepted: 'graph'"
            )
        in_place = copy is None and not copies(copy)
        prepared = with_masked_floats(uncompiled(model) if in_place else _copied(model, share=copy is False)).eval()
        resolver = ConfigResolver(self.config)
        recording = _record(prepared, arguments)
        states = plan_weights(prepared, recording, resolver, leave_indivisible=leave_indivisible)
        self._report(prepared, recording, states)
        if quantizes_activations(self.config):
            observer = QuantizingObserver(self.config)
            holder_in(prepared)
            observe(prepared, observer, behaviour_for)
            _place(recording, observer, resolver)
        else:
            detached(prepared)
        for weight in states.weights:
            install_quantized(weight)
        return prepared

    def run_example(self, prepared: nn.Module, arguments: Arguments, name: str) -> None:
        """See the base class; without quantized activations, reading the weights suffices."""
        if quantizes_activations(self.config):
            super().run_example(prepared, arguments, name)
            return
        for each in placed(prepared, FakeQuantized):
            each.form.value(each.module)

    def finalize(self, prepared: nn.Module, backend: ExportBackend, mmap_dir: str | None) -> nn.Module:
        """See the base class."""
        refuse_dynamic(quantizers_of(prepared))
        model, places = copied(prepared, FakeQuantized)
        if backend is ExportBackend.CoreAI:
            register()
            store(places, mmap_dir)
            settle_for_coreai(model)
        elif backend is ExportBackend.Torch:
            store_dense(places, mmap_dir)
            settle_for_torch(model)
        else:
            refused = store_described(model, places, mmap_dir) | settle_for_coreml(model)
            if refused:
                lines = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
                raise CoreMLExportError(
                    f"coremltools' compression metadata cannot describe {len(refused)} tensors:{lines}"
                )
        return model.requires_grad_(False)

    def _report(self, model: nn.Module, recording: Recording, states: StatePlan) -> None:
        """Report config entries that match nothing, and warn about skipped weights."""
        sites: dict[str, OpSite] = {}
        for site in (*(site_of(call) for call in recording.ops), *states.sites):
            known = sites.get(site.name)
            if known is not None and known.op_type == site.op_type:
                site = attrs.evolve(known, states=tuple(dict.fromkeys((*(known.states or ()), *(site.states or ())))))
            sites[site.name] = site
        report_unmatched(self.config, sites.values(), module_scopes(model))
        self.skipped_weights = states.skipped


def _copied(model: nn.Module, *, share: bool) -> nn.Module:
    """Copy the model; with `share`, the copy has the same parameters."""
    copied = copy_of(model, QuantizationError, shared=model.parameters() if share else ())
    if any(isinstance(module, HeldQuantizers) for module in copied.modules()):
        raise QuantizationError(
            "the model was prepared or finalized by a Quantizer in eager mode; pass the model before preparation"
        )
    return copied


def _record(model: nn.Module, arguments: Arguments) -> Recording:
    """Record one run of the model, which remains observed so that ops keep their names."""
    recorder = Recorder(model)
    observe(model, recorder, behaviour_for)
    with undisturbed(model):
        arguments.run(model, type(model).__name__, QuantizationError)
    observe(model, CallObserver(), behaviour_for)
    return recorder.recording()


def _place(recording: Recording, observer: QuantizingObserver, resolver: ConfigResolver) -> None:
    """Add the quantizers of every recorded op and module; module boundaries override ops."""
    has_boundary = list(overridden(recording.modules, recording.ops, resolver))
    read = {(id(op), use.place) for op, use, is_read in has_boundary if is_read}
    made = {(id(op), use.place) for op, use, is_read in has_boundary if not is_read}
    calls: dict[Any, list[OpCall]] = {}
    for op in recording.ops:
        calls.setdefault((op.module, (op.name, op.signature)), []).append(op)
    for (module, key), ops in calls.items():
        placement = place_op(ops[0], resolver)
        for op in ops:
            for use in op.operands:
                if (id(op), use.place) in read:
                    placement = placement.without_input(f"{op.name}_{use.name}")
            for use in op.results:
                if (id(op), use.place) in made and isinstance(use.place, int):
                    placement = placement.without_output(use.place)
        observer.place(module, key, placement)
    for call in recording.modules:
        observer.place(call.module, BOUNDARY, place_boundary(call, resolver))
