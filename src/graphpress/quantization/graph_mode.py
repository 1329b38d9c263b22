"""Graph mode of the quantizer: the model is captured, passes insert quantizers, and a graph module is emitted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from graphpress import pipelines
from graphpress.export_backend import ExportBackend
from graphpress.ir.collector import collector_held, holding_collector
from graphpress.ir.graph import Graph
from graphpress.ir.ops import Trait
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.export_errors import ExportError
from graphpress.ir.torch.locations import captured_scopes
from graphpress.passes.analysis.facts import QUANTIZERS_INSERTED
from graphpress.passes.analysis.quantization_points import QuantizerNote
from graphpress.passes.config import BiasCorrection, QuantizerConfig, SkippedWeight
from graphpress.passes.config.entries import qualified_name
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.framework import Pipeline, Runner, RunResult
from graphpress.passes.rotate_residual import RotatedStream, UnrotatedStream
from graphpress.passes.smooth_layers import Smoothing
from graphpress.programs import Model
from graphpress.quantization.capture import capture
from graphpress.quantization.execution import Execution, refuse_dynamic
from graphpress.quantization.expressions import forget_results
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, fake_quantizer
from graphpress.quantization.outlining import emit_finalized, emit_for_coreml, emit_for_torch, emit_prepared
from graphpress.quantization.parameters import AttachParameters, keep_states, read_back
from graphpress.quantization.refinement.calibration import refined_after, uncorrected_inside, warn_when_unrefined
from graphpress.quantization.refinement.refine import Refinement, correct_biases_without_data
from graphpress.quantization.smoothing import SmoothedLayers
from graphpress.quantization.switches import quantizers_of


class UnrotatedWarning(UserWarning):
    """The config rotates residual streams, and the model has none that can be rotated."""


class GraphExecution(Execution):
    """Quantization of a graph captured by `torch.export`.

    Attributes:
        graph: the prepared graph; None before `prepare`.
        result: the pass results of `prepare`; None before.
        refinement: the rounding and bias changes of the last calibration; None if the config requests none.
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        self.graph: Graph | None = None
        self.result: RunResult | None = None
        self.refinement: Refinement | None = None

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
        """See the base class."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not no_grad):
            try:
                graph = capture(model, arguments, dynamic_shapes, strict=strict)
            except ExportError as error:
                if not error.is_data_dependent:
                    raise
                otherwise = "or quantize with execution_mode 'eager', which captures no graph"
                raise ExportError(f"{error}, {otherwise}") from error.__cause__
        keep_states(graph)
        with collector_held():
            pipeline = pipelines.prepare(
                self.config, leave_indivisible=leave_indivisible, silent_modules=_silent_modules(model, graph)
            )
            self.result = Runner().run(graph, pipeline, in_place=True)
            self.graph = self.result.graph
            self._warn_when_unrotated()
            self.skipped_weights = tuple(self.result.remarks(SkippedWeight))
            prepared = emit_prepared(self.graph, _fake_quantizers(self.graph), copy_constants=copy is not False)
        prepared.eval()
        if self.config.bias_correction is BiasCorrection.ANALYTIC:
            with torch.no_grad():
                correct_biases_without_data(prepared)
        return prepared

    def calibrating(
        self, prepared: nn.Module, progress: Callable[[int, int], None] | None
    ) -> AbstractContextManager[None]:
        """See the base class."""
        if not self.config.learns_from_calibration and self.config.bias_correction is BiasCorrection.NONE:
            return nullcontext()
        assert isinstance(prepared, fx.GraphModule)
        if not self.config.learns_from_calibration:
            return uncorrected_inside(prepared)
        return self._learning(prepared, progress)

    @contextmanager
    def _learning(self, prepared: fx.GraphModule, progress: Callable[[int, int], None] | None) -> Iterator[None]:
        """Record data inside the context; on exit, smooth layers, then choose codes and correct biases."""
        with refined_after(prepared, self.config, self._smoothed(prepared), self._keep_refinement, progress):
            yield

    def _warn_when_unrotated(self) -> None:
        assert self.result is not None
        if not self.config.rotate_residual or self.result.remarks(RotatedStream):
            return
        reasons = [each.reason for each in self.result.remarks(UnrotatedStream)]
        found = "; ".join(dict.fromkeys(reasons)) or "it has no norm over its last axis"
        warnings.warn(f"rotate_residual rotates nothing in this model: {found}", UnrotatedWarning, stacklevel=4)

    def _smoothed(self, prepared: fx.GraphModule) -> SmoothedLayers:
        assert self.result is not None
        return SmoothedLayers(prepared, self.result.remarks(Smoothing), self.config.smooth_layers or 0.0)

    def _keep_refinement(self, refinement: Refinement) -> None:
        self.refinement = refinement

    @holding_collector
    def finalize(self, prepared: nn.Module, backend: ExportBackend, mmap_dir: str | None) -> nn.Module:
        """See the base class."""
        assert self.graph is not None
        assert isinstance(prepared, fx.GraphModule)
        warn_when_unrefined(prepared, self.config)
        if self.config.selection is None:  # which may leave layers as they are
            self._smoothed(prepared).warn_without_data()
        forget_results(prepared)  # frees the memory of cached weights
        graph = self.graph.clone()
        read_back(graph, prepared)
        quantizers = {quantizer.name: quantizer for quantizer in quantizers_of(prepared)}
        refuse_dynamic(quantizers.values())
        attach = Pipeline(FoldConstants(), AttachParameters(quantizers), assume=[QUANTIZERS_INSERTED])
        graph = Runner().run(graph, attach, in_place=True).graph
        graph = Runner().run(graph, pipelines.finalize(backend), in_place=True).graph
        if backend is ExportBackend.CoreML:
            return emit_for_coreml(graph, mmap_dir)
        if backend is ExportBackend.Torch:
            return emit_for_torch(graph, quantizers, mmap_dir)
        return emit_finalized(graph, mmap_dir=mmap_dir)


def _silent_modules(model: Model, graph: Graph) -> dict[str, str]:
    """Return paths and classes of modules that run only ops which canonicalization may remove, such as dropout."""
    running = {
        scope.path
        for node in graph.nodes
        if not node.op.has(Trait.VALUE_PRESERVING)
        for origin in node.location.origins
        for scope in origin.scopes
    }
    if isinstance(model, ExportedProgram):
        modules = {path: scope.type_name for path, scope in captured_scopes(graph).items()}
    else:
        modules = {path: qualified_name(type(module)) for path, module in model.named_modules()}
    return {path: type_name for path, type_name in modules.items() if path and path not in running}


def _fake_quantizers(graph: Graph) -> dict[str, FakeQuantizeImplBase]:
    """Create a module for every quantizer of a prepared graph, by name."""
    made: dict[str, FakeQuantizeImplBase] = {}
    for node in graph.nodes:
        note = node.annotation(QuantizerNote)
        if note is None:
            continue
        quantizer, dtype = note.quantizer, node.result.tensor_type.dtype.torch_dtype
        module = made.get(quantizer.name)
        if module is None:
            module = fake_quantizer(
                quantizer.name, quantizer.spec, quantizer.block_size, is_state=quantizer.is_state, data_dtype=dtype
            )
            module.schedule = quantizer.schedule
            made[quantizer.name] = module
        calculator = module.calculator
        calculator.data_dtype = max(calculator.data_dtype, dtype, key=lambda each: torch.finfo(each).eps)
        paths = [origin.module_path for origin in node.location.origins]
        module.module_paths = tuple(dict.fromkeys((*module.module_paths, *paths)))
    return made
