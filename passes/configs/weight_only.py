"""What palettization and pruning configs share: they compress weights and leave activations alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from graphpress.passes.configs.base import ModuleCompressionConfig, OpCompressionConfig

_ADVICE = "it is about activations, and only weights are compressed here; use op_state_spec"


class WeightOnlyOpConfig(OpCompressionConfig):
    """An op config without inputs and outputs."""

    __slots__ = ()

    argument_hints: ClassVar[Mapping[str, str]] = {"op_input_spec": _ADVICE, "op_output_spec": _ADVICE}
    op_input_spec: ClassVar[None] = None
    op_output_spec: ClassVar[None] = None


class WeightOnlyModuleConfig(ModuleCompressionConfig):
    """A module config without inputs and outputs."""

    __slots__ = ()

    argument_hints: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("op_input_spec", "op_output_spec", "module_input_spec", "module_output_spec"), _ADVICE
    )
    op_input_spec: ClassVar[None] = None
    op_output_spec: ClassVar[None] = None
    module_input_spec: ClassVar[None] = None
    module_output_spec: ClassVar[None] = None
