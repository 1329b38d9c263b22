"""Files that were found by fuzzing, as short as they still fail without their correction."""

from __future__ import annotations

CORPUS: dict[str, tuple[str, dict[str, str]]] = {
    "the type of a tagged class is a list": (
        "yaml",
        {"c.yaml": "pruning_config: {global_config: {op_state_spec: {weight: {pruning_scheme: {type: []}}}}}"},
    ),
    "the dtype of scales is a dictionary": (
        "yaml",
        {"c.yaml": "quantization_config: {global_config: {op_state_spec: {weight: {scale_dtype: {a: 1}}}}}"},
    ),
}
"""The format and the files, by what is wrong with them."""
