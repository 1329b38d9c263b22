"""Weight compression of Core ML programs without a torch model."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np

from graphpress.backends.coreml.dependency import quiet, require
from graphpress.backends.coreml.importing.program import sketch
from graphpress.backends.coreml.legality import Target, lowest_target
from graphpress.backends.coreml.package import load_program
from graphpress.backends.coreml.translations import TRANSLATIONS, Builder, Constant, DeferredTables, dtype_number
from graphpress.backends.errors import AssetError, ConversionError
from graphpress.backends.importing.weights import StoredWeight, compress
from graphpress.ir.graph import Node, Value
from graphpress.passes.framework import Pipeline

_NAMES = {"blockwise_shift_scale": "constexpr_blockwise_shift_scale"}
_OPERANDS = {"values": "nonzero_data"}


def stored_weight(value: Value, name: str) -> Any:
    """Emit the ops for `value` at coremltools' current insertion point.

    Args:
        value: a constant, or `quant` ops over constants that the target can store.
        name: the name of the op.
    """
    made = _OpEmitter(DeferredTables()).make(value, name)
    return Builder(DeferredTables(), name).plain(made.val) if isinstance(made, Constant) else made


class _OpEmitter:
    """Emits the ops of one weight, innermost first."""

    def __init__(self, waiting: DeferredTables) -> None:
        self._waiting = waiting

    def make(self, value: Value, name: str) -> Any:
        """Return the op for a value, a table that waits for its scale, or a constant."""
        if value.node is None:
            assert value.constant is not None
            return Constant(_array(value))
        node = value.node
        operands = {
            _OPERANDS.get(key, key): self.make(operand, f"{name}_{key}") for key, _, operand in node.operand_values()
        }
        kind = _NAMES.get(node.op.short_name, node.op.short_name)
        build = Builder(self._waiting, name)
        made = TRANSLATIONS[kind](build, **_arguments(node, operands))
        return self._waiting.tables[name] if made is None else build.cast(made, value.tensor_type.dtype.long_name)


def _arguments(node: Node, operands: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments in the form of the `torch.ops.coreai` op."""
    if node.op.short_name == "blockwise_shift_scale":
        dtypes = {"input_dtype": dtype_number(node.attribute("dtype").long_name), "output_dtype": None}
        return dict.fromkeys(("zero_point", "minval")) | operands | dtypes
    return operands | ({"axis": node.attribute("axis")} if node.op.short_name == "lut_to_dense" else {})


def _array(value: Value) -> np.ndarray[Any, Any]:
    assert value.constant is not None
    return value.constant.tensor.detach().numpy()


_VERSIONS = {Target.iOS15: 6, Target.iOS16: 7, Target.iOS17: 8, Target.iOS18: 9, Target.iOS26: 10}


def rewrite(model: Any, pipeline: Pipeline) -> Any:
    """Return a coremltools model like `model`, with its weights replaced by the passes of `pipeline`.

    The passes run on an import of each function. Only the replaced weights change in the program; dynamic dims, states
    and untranslated ops are preserved. If the model's target cannot store such weights, the oldest target that can is
    used.

    Args:
        model: a coremltools model of a program, or the path of a package. It is not changed.
        pipeline: passes that replace weights, such as `quantize-weights`.

    Raises:
        AssetError: if there is no package, it is damaged, or `model` is of another type.
        LoweringError: if no target can store such weights.
        ConversionError: if coremltools rejects the result.
        GraphpressError: from a pass, about its options or a weight.
    """
    model = _opened(model)
    spec = model.get_spec()
    loader = require("coremltools.converters.mil.frontend.milproto.load")
    with quiet():
        program = loader.load(spec, spec.specificationVersion, model.weights_dir)
    weights = {name: compress(*sketch(program, name), pipeline) for name in program.functions}
    lowest = lowest_target(node for each in weights.values() for weight in each for node in weight.nodes)
    try:
        with quiet():
            return require("coremltools.models.utils")._apply_graph_pass(
                model, _pass(weights), spec_version=_VERSIONS[lowest], skip_model_load=True
            )
    except Exception as error:
        raise ConversionError(f"coremltools cannot store the program: {type(error).__name__}: {error}") from error


def _opened(model: Any) -> Any:
    coremltools = require()
    if isinstance(model, str | PathLike):
        load_program(model)  # raises with the reason
        with quiet():
            model = coremltools.models.MLModel(str(model), skip_model_load=True)
    if not isinstance(model, coremltools.models.MLModel) or model.get_spec().WhichOneof("Type") != "mlProgram":
        raise AssetError(
            f"a {type(model).__name__} is not a Core ML program; expected an MLModel or the path of a package"
        )
    return model


def _pass(weights: dict[str, list[StoredWeight]]) -> Any:
    """Return a coremltools pass that replaces the constants named in `weights`, in every function."""
    base = require("coremltools.converters.mil.mil.passes.graph_pass").AbstractGraphPass

    class StoreWeights(base):  # type: ignore[misc, valid-type]
        def apply(self, program: Any) -> None:
            for name, function in program.functions.items():
                with function:
                    _replace(function, {weight.origin: weight for weight in weights[name]})

    return StoreWeights()


def _replace(block: Any, weights: dict[str, StoredWeight]) -> None:
    mb = require("coremltools.converters.mil.mil").Builder
    for op in list(block.operations):
        for inner in op.blocks:
            with inner:
                _replace(inner, weights)
        weight = weights.get(op.outputs[0].name) if op.op_type == "const" else None
        if weight is None:
            continue
        before = op.outputs[0]
        with mb.set_before_op(op):
            made = stored_weight(weight.value, f"{before.name}_compressed")
        block.replace_uses_of_var_after_op(anchor_op=op, old_var=before, new_var=made, no_check_var_types=True)
        block.remove_ops([op])
