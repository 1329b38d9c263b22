"""Ops that a file may not name, because they touch files or processes, or trust their operands with memory.

The list is exact by namespace and op. Namespaces that torch does not own belong to libraries that the process has
imported itself, and are accepted.
"""

from __future__ import annotations

import re

_ACCEPTED_OF_TORCH = frozenset({"aten", "prims", "sym", "hop", "higher_order", "quantized_decomposed"})
_OF_TORCH = frozenset(
    [
        "_C",
        "_c10d_functional",
        "_c10d_functional_autograd",
        "_dtensor",
        "_inductor_test",
        "_nvfuser",
        "_quantized",
        "_spmd",
        "_test",
        "aot_export",
        "aoti_custom_ops",
        "autograd",
        "bundled_inputs",
        "c10",
        "c10_experimental",
        "c10d",
        "c10d_functional",
        "cuda",
        "cudnn",
        "custom_ops",
        "dataloader",
        "debugprims",
        "export",
        "fsdp",
        "fused_adagrad",
        "fx",
        "inductor",
        "internal",
        "io",
        "ivalue",
        "mkl",
        "mkldnn",
        "mkldnn_prims",
        "mkldnn_rnn",
        "mtia",
        "nccl",
        "nvprims",
        "onednn",
        "onnx_symbolic",
        "prepacked",
        "prim",
        "prim_ops",
        "profiler",
        "quantized",
        "rngprims",
        "script",
        "sparse",
        "static_runtime",
        "streams",
        "symm_mem",
        "torch_attn",
        "triton",
        "xpu",
    ]
)
_ATEN = re.compile(
    r"from_file|set_|set|set_data|_print|segment_reduce|_segment_reduce_backward|record_stream|_pin_memory|pin_memory"
    r"|_resize_output_?|_coalesced_?|_cslt_.*|_?cudnn_.*|_?miopen_.*|_?mkldnn_.*|fbgemm_.*|_cufft_.*|_cuda.*"
    r"|_?sparse_.*|_?nested_.*|.*_jagged_.*|_jagged.*|_values|_indices|to_mkldnn.*|_test_.*|_dlpack.*|_to_dlpack"
    r"|_fw_primal.*|_make_dual.*|_unsafe_set_version_counter|_thnn_.*|_triton_.*|_load.*|_save.*|_propagate_xla_data"
    r"|_use_cudnn.*|_foreach_copy_?|_rowwise_prune|_sync|_nnpack.*|quantized_(?:lstm|gru|rnn).*"
)
_HIGHER_ORDER = re.compile(
    r".*triton.*|call_torchbind|with_effects|inductor_compiled_code|print|executorch_call_delegate|run_const_graph"
    r"|aoti_call_delegate|invoke_leaf_function|run_and_save_rng_state|run_with_rng_state|.*delegate.*|_.*__"
)


def refusal(name: str) -> str | None:
    """Return why a file may not name the op `name`, or None if it may."""
    dialect, _, rest = name.partition(".")
    short = rest.partition(".")[0]
    if "__" in dialect or (dialect in _OF_TORCH and dialect not in _ACCEPTED_OF_TORCH):
        return f"ops of torch's {dialect!r} are not run from files; accepted: aten, prims, and registered custom ops"
    if dialect == "aten" and _ATEN.fullmatch(short):
        return f"{name} is not run from files: it reaches files, devices or memory outside its operands"
    if dialect in ("hop", "higher_order") and _HIGHER_ORDER.fullmatch(short):
        return f"{name} is not run from files: it calls code that is not in the graph"
    return None
