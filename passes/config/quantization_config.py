"""Quantization configs: weights, activations, module boundaries, key-value caches, training schedules."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Self

import attrs

from graphpress.passes.config.arguments import (
    boolean,
    checked,
    instance,
    integer,
    member,
    number,
    strict_arguments,
    tagged,
)
from graphpress.passes.config.base import (
    CompressionConfig,
    Made,
    ModuleCompressionConfig,
    OpCompressionConfig,
    Presets,
    as_module,
)
from graphpress.passes.config.entries import ALL, Table, config_table, edge_table, entries, name_key, state_table
from graphpress.passes.config.errors import SpecError
from graphpress.passes.config.granularity import PerBlockGranularity, PerChannelGranularity
from graphpress.passes.config.plain import PlainForm
from graphpress.passes.config.quantization_spec import (
    AdaptiveRounding,
    BiasCorrection,
    GPTQRounding,
    NearestRounding,
    QuantizationSpec,
    WeightRounding,
    default_activation_quantization_spec,
    default_weight_quantization_spec,
)
from graphpress.passes.config.selection import Selection


class ExecutionMode(StrEnum):
    """How the model is captured."""

    GRAPH = "graph"
    """`torch.export`, then passes over the whole graph."""
    EAGER = "eager"
    """Calls of torch functions are intercepted as the model runs; nothing is captured."""

    @classmethod
    def _missing_(cls, value: object) -> ExecutionMode | None:
        """Resolve the former value ``"pt2e"``, with a deprecation warning."""
        if value != "pt2e":
            return None
        warnings.warn("ExecutionMode('pt2e') is now ExecutionMode('graph')", DeprecationWarning, stacklevel=2)
        return cls.GRAPH


class InvalidExecutionModeError(SpecError):
    """An unknown execution mode, or one that does not support an operation."""


def _execution_mode(value: Any) -> ExecutionMode:
    try:
        return member(ExecutionMode)(value)
    except SpecError as error:
        raise InvalidExecutionModeError(error.problem) from None


class Placement(StrEnum):
    """Which activations the specs of module configs for all ops apply to.

    Entries that name an op, its type or a module's boundary apply in any placement, and so do specs of weights.
    """

    EVERYWHERE = "everywhere"
    """Inputs and outputs of all ops that have quantizers by default."""
    MATMUL_INPUTS = "matmul-inputs"
    """Operands of matrix products, convolutions and attention only: no results, sums, norms or activation functions."""


def _every_activation() -> Table:
    return {ALL: default_activation_quantization_spec()}


def _every_weight() -> Table:
    return {"weight": default_weight_quantization_spec()}


@strict_arguments
@attrs.define(kw_only=True)
class OpQuantizerConfig(OpCompressionConfig):
    """Quantization of the tensors of an op; by default int8 weights and activations.

    Attributes:
        op_input_spec: by index, operand name (or regular expression) or ``"*"``; None skips all.
        op_output_spec: likewise for results.
        op_state_spec: by name of the parameter or buffer; None skips all.
    """

    op_input_spec: Table | None = attrs.field(
        factory=_every_activation, converter=checked(edge_table(QuantizationSpec))
    )
    op_output_spec: Table | None = attrs.field(
        factory=_every_activation, converter=checked(edge_table(QuantizationSpec))
    )
    op_state_spec: Table | None = attrs.field(factory=_every_weight, converter=checked(state_table(QuantizationSpec)))


@strict_arguments
@attrs.define(kw_only=True)
class QATSchedule(PlainForm):
    """Training steps at which quantizers change, counted by `step()` from 0.

    Attributes:
        enable_observer: ranges are observed from here on.
        enable_fake_quant: quantization is simulated from here on, not before ranges are observed.
        disable_observer: ranges are fixed from here on; None observes to the end.
    """

    enable_observer: int = attrs.field(default=0, converter=checked(integer(0)))
    enable_fake_quant: int = attrs.field(default=0, converter=checked(integer(0)))
    disable_observer: int | None = attrs.field(default=None, converter=checked(integer(0, optional=True)))

    def __attrs_post_init__(self) -> None:
        if self.enable_fake_quant < self.enable_observer:
            raise SpecError(
                f"{self.enable_fake_quant} is before enable_observer={self.enable_observer};"
                f" accepted: an integer >= {self.enable_observer}",
                "enable_fake_quant",
            )
        earliest = max(self.enable_observer + 1, self.enable_fake_quant)
        if self.disable_observer is not None and self.disable_observer < earliest:
            raise SpecError(
                f"{self.disable_observer} is too early for enable_observer={self.enable_observer} and"
                f" enable_fake_quant={self.enable_fake_quant}; accepted: an integer >= {earliest} or None",
                "disable_observer",
            )


@strict_arguments
@attrs.define(kw_only=True)
class ModuleQuantizerConfig(ModuleCompressionConfig):
    """Quantization of the ops in a module's scope; by default int8 weights and activations.

    Attributes:
        op_input_spec: for every op that no op config covers; see `OpQuantizerConfig`.
        op_output_spec: likewise.
        op_state_spec: likewise.
        op_type_config: by op type such as ``linear``; None skips ops of the type.
        op_name_config: by op name or regular expression; None skips the op.
        module_input_spec: for the inputs of the module itself; overrides op configs.
        module_output_spec: likewise for its outputs.
        module_state_spec: for states in its scope; overrides op configs.
        qat_schedule: when quantizers change in training; None simulates from the first step.
    """

    presets: ClassVar[QuantizerPresets[ModuleQuantizerConfig]]

    op_input_spec: Table | None = attrs.field(
        factory=_every_activation, converter=checked(edge_table(QuantizationSpec))
    )
    op_output_spec: Table | None = attrs.field(
        factory=_every_activation, converter=checked(edge_table(QuantizationSpec))
    )
    op_state_spec: Table | None = attrs.field(factory=_every_weight, converter=checked(state_table(QuantizationSpec)))
    op_type_config: Table = attrs.field(factory=dict, converter=checked(config_table(OpQuantizerConfig)))
    op_name_config: Table = attrs.field(factory=dict, converter=checked(config_table(OpQuantizerConfig)))
    module_input_spec: Table | None = attrs.field(default=None, converter=checked(edge_table(QuantizationSpec)))
    module_output_spec: Table | None = attrs.field(default=None, converter=checked(edge_table(QuantizationSpec)))
    module_state_spec: Table | None = attrs.field(default=None, converter=checked(state_table(QuantizationSpec)))
    qat_schedule: QATSchedule | None = attrs.field(
        default=None, converter=checked(instance(QATSchedule, optional=True))
    )


@strict_arguments
@attrs.define(kw_only=True)
class KVCacheQuantConfig(PlainForm):
    """Quantization of a key-value cache: the op that updates it stores codes.

    The op must only move data (slice, copy, scatter): arithmetic on the cached values would see codes.

    Attributes:
        op_quantizer_config: its `op_input_spec` names the input that is the cache, and its spec.
    """

    op_quantizer_config: OpQuantizerConfig = attrs.field(converter=checked(instance(OpQuantizerConfig)))

    def __attrs_post_init__(self) -> None:
        inputs = self.op_quantizer_config.op_input_spec or {}
        if len(inputs) != 1 or ALL in inputs or None in inputs.values():
            raise SpecError(
                f"names {list(inputs)!r}; accepted: one input by index or name, with a spec that is not None",
                "op_quantizer_config.op_input_spec",
            )


def _strength(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return 0.5 if value else None
    try:
        return number(0, 1)(value)
    except SpecError:
        raise SpecError(f"{value!r} is not a number from 0 to 1, nor True, False or None") from None


def _attribute_names(value: Any) -> list[str] | None:
    if value is None:
        return None
    names = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise SpecError(f"{value!r} is not a list of attribute names, nor None")
    return names


@strict_arguments
@attrs.define(kw_only=True)
class QuantizerConfig(CompressionConfig):
    """Quantization of a model; by default int8 weights and activations everywhere.

    An omitted `global_config` is the default one, also beside module entries.

    Attributes:
        execution_mode: `ExecutionMode` or its name.
        preserved_attributes: attributes of the model that the prepared and finalized models keep.
        kv_cache_quant_configs: by type of the op that updates a cache; overrides everything else about that op.
        weight_rounding: how the codes of weights are chosen: `NearestRounding`, `GPTQRounding` or `AdaptiveRounding`,
            or its plain form such as ``"gptq"``. The last two work on the data of `calibration_mode()`.
        equalize_layers: move scale between the channels of consecutive layers before they are quantized.
        rotate_residual: fold an orthogonal matrix into the weights around residual streams, which spreads channels with
            large values over all channels (QuaRot, arXiv 2404.00456); for transformers with norms before their
            branches. Weights of norms go into the layers after them, so a head that shares the embedding's parameter
            gets its own. A model without such a stream causes an `UnrotatedWarning` with the reasons.
        smooth_layers: move scale from the channels of activations with large values to the weights that read them, on
            the data of `calibration_mode()` (SmoothQuant, arXiv 2211.10438). The number, from 0 to 1, is the exponent
            of the activation's range in the factors; True is 0.5, False or None is off. A `selection` also tries the
            number midway to 1.
        bias_correction: a `BiasCorrection` or its name.
        placement: a `Placement` or its name.
        selection: a `Selection`: what lowers the error of the model's output is kept, the
            rest of what the other options ask for is not. None keeps everything.
    """

    module_config_class: ClassVar[type[ModuleQuantizerConfig]] = ModuleQuantizerConfig
    top_keys: ClassVar[tuple[str, ...]] = ("quantization_config",)
    entries_replace_global: ClassVar[bool] = False
    presets: ClassVar[QuantizerPresets[QuantizerConfig]]

    execution_mode: ExecutionMode = attrs.field(default=ExecutionMode.GRAPH, converter=checked(_execution_mode))
    preserved_attributes: list[str] | None = attrs.field(default=None, converter=checked(_attribute_names))
    kv_cache_quant_configs: Table = attrs.field(
        factory=dict,
        converter=checked(entries(name_key, instance(KVCacheQuantConfig), "an op type to a KVCacheQuantConfig")),
    )
    weight_rounding: WeightRounding = attrs.field(
        factory=NearestRounding,
        converter=checked(tagged(NearestRounding, GPTQRounding, AdaptiveRounding, what="weight rounding")),
    )
    equalize_layers: bool = attrs.field(default=False, converter=checked(boolean))
    rotate_residual: bool = attrs.field(default=False, converter=checked(boolean))
    smooth_layers: float | None = attrs.field(default=None, converter=checked(_strength))
    bias_correction: BiasCorrection = attrs.field(
        default=BiasCorrection.NONE, converter=checked(member(BiasCorrection))
    )
    placement: Placement = attrs.field(default=Placement.EVERYWHERE, converter=checked(member(Placement)))
    selection: Selection | None = attrs.field(default=None, converter=checked(instance(Selection, optional=True)))

    @property
    def learns_from_calibration(self) -> bool:
        """True if `calibration_mode()` also chooses codes, corrects biases, selects among them or smooths layers."""
        return self.refines_weights or self.selection is not None or self.smooth_layers is not None

    @property
    def refines_weights(self) -> bool:
        """True if `calibration_mode()` also chooses codes or corrects biases."""
        chooses = not isinstance(self.weight_rounding, NearestRounding)
        return chooses or self.bias_correction is BiasCorrection.EMPIRICAL

    def set_execution_mode(self, mode: ExecutionMode | str) -> Self:
        """Choose how the model is captured.

        Raises:
            InvalidExecutionModeError: for an unknown mode.
        """
        self.execution_mode = mode  # type: ignore[assignment]  # the field converts
        return self


class QuantizerPresets(Presets[Made]):
    """Presets of quantization; the first three are weight-only.

    An `execution_mode` or a `placement` is for a whole model; the presets of a module's config refuse them.
    """

    def w8(self, *, axis: int | None = None, execution_mode: ExecutionMode | str | None = None) -> Made:
        """Weights int8, symmetric, per channel along `axis`, by default per output channel."""
        return self._weights(_weight("int8", granularity=PerChannelGranularity(axis=axis)), execution_mode)

    def w4(self, *, axis: int | None = None, execution_mode: ExecutionMode | str | None = None) -> Made:
        """Weights int4, symmetric, per channel along `axis`, by default per output channel."""
        return self._weights(_weight("int4", granularity=PerChannelGranularity(axis=axis)), execution_mode)

    def w4_per_block(
        self,
        *,
        block_size: int = 32,
        axis: int | None = None,
        scale_dtype: Any = None,
        execution_mode: ExecutionMode | str | None = None,
    ) -> Made:
        """Weights int4, symmetric, in blocks along `axis`, by default along the input channels.

        Scales are stored in `scale_dtype`; see `QuantizationSpec.scale_dtype`.
        """
        block = PerBlockGranularity(axis=axis, block_size=block_size)
        return self._weights(_weight("int4", granularity=block, scale_dtype=scale_dtype), execution_mode)

    def mxfp4(self) -> Made:
        """Weights float4 in blocks of 32 with power-of-two scales (OCP Microscaling formats, v1.0)."""
        return self._weights(_weight("float4_e2m1fn", granularity=PerBlockGranularity(block_size=32)))

    def w8a8(self, *, placement: Placement | str | None = None) -> Made:
        """Weights int8 per output channel, activations int8 per tensor: the default config."""
        return self._placed(ModuleQuantizerConfig(), placement)

    def w4a8(self, *, placement: Placement | str | None = None) -> Made:
        """Weights int4 per output channel, activations int8 per tensor."""
        return self._placed(ModuleQuantizerConfig(op_state_spec={"weight": _weight("int4")}), placement)

    def fp8(self) -> Made:
        """Weights float8 e4m3fn per output channel, activations the same per tensor."""
        return self._both(_weight("float8_e4m3fn"), _activation("float8_e4m3fn"))

    def best(self, *, seconds: float | None = None) -> Made:
        """8 bits with the least error: int8 scales of least squared error, asymmetric activations from histograms.

        For a whole model, only operands of products are quantized, and on leaving `calibration_mode()` smoothing, other
        ranges, codes by GPTQ, bias corrections and the removal of few quantizers are tried, each of which is kept only
        if the error of the outputs falls; see `Selection`, also for `seconds`. A module's config has none of these.
        """
        made = self._both(
            _weight("int8", qparam_calculator_cls="mse"),
            _activation("int8", qscheme="asymmetric", qparam_calculator_cls="histogram"),
        )
        if isinstance(made, QuantizerConfig):
            made.weight_rounding = GPTQRounding()
            made.bias_correction = BiasCorrection.EMPIRICAL
            made.placement = Placement.MATMUL_INPUTS
            made.smooth_layers = 0.5
            made.selection = Selection(seconds=seconds)
        elif seconds is not None:
            _whole(made, "seconds", seconds)
        return made

    def _weights(self, weight: QuantizationSpec, execution_mode: ExecutionMode | str | None = None) -> Made:
        made = self._finish(
            ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec={"weight": weight})
        )
        if execution_mode is not None:
            _whole(made, "execution_mode", execution_mode).set_execution_mode(execution_mode)
        return made

    def _placed(self, module: ModuleQuantizerConfig, placement: Placement | str | None) -> Made:
        made = self._finish(module)
        if placement is not None:
            _whole(made, "placement", placement).placement = placement  # type: ignore[assignment]  # the field converts
        return made

    def _both(self, weight: QuantizationSpec, activation: QuantizationSpec) -> Made:
        every: Mapping[str, QuantizationSpec] = {ALL: activation}
        return self._finish(
            ModuleQuantizerConfig(op_input_spec=every, op_output_spec=every, op_state_spec={"weight": weight})
        )


def _whole(made: object, name: str, value: object) -> QuantizerConfig:
    """Return `made` if it is the config of a whole model, which alone has the option `name`."""
    if not isinstance(made, QuantizerConfig):
        raise SpecError(f"{value!r} is for a whole model; QuantizerConfig.presets take it", name)
    return made


def _weight(dtype: str, **changes: Any) -> QuantizationSpec:
    defaults = {"granularity": PerChannelGranularity(), "qparam_calculator_cls": "static"}
    return QuantizationSpec(dtype=dtype, **(defaults | changes))


def _activation(dtype: str, **changes: Any) -> QuantizationSpec:
    return QuantizationSpec(dtype=dtype, **({"qparam_calculator_cls": "moving_average"} | changes))


ModuleQuantizerConfig.presets = QuantizerPresets(as_module)
QuantizerConfig.presets = QuantizerPresets(lambda module: QuantizerConfig(global_config=module))
