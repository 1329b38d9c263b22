"""Ops that a file may name: those of torch that compute on dense operands, and those of libraries in the process.

Names of torch's ops are accepted one by one, so an op of a newer torch is refused until it is listed here. Not listed
are ops that reach files (`from_file`), processes (`manual_seed`) or devices (`record_stream`); that replace the memory
of an operand (`set_`, `resize_`); that trust operands with addresses in memory (`_reshape_alias`, `ctc_loss`, backward
ops); and those on sparse, nested and quantized tensors, which graphs do not hold.

Namespaces that torch does not own belong to libraries that the process has imported itself, and are accepted.
"""

from __future__ import annotations

from functools import cache

import torch


def refusal(name: str) -> str | None:
    """Return why a file may not name the op `name`, or None if it may."""
    dialect, _, rest = name.partition(".")
    short = rest.partition(".")[0]
    if "__" in dialect or dialect in _OF_TORCH:
        return f"ops of torch's {dialect!r} are not run from files; accepted: aten, prims, and registered custom ops"
    accepted = _ACCEPTED.get(dialect)
    if accepted is None:
        return None
    if short in accepted or (dialect == "aten" and _functional(short) in accepted):
        return None if short in _OF_NUMBERS or _has_tensors(name) else f"{name} computes on numbers, not on tensors"
    return (
        f"{name} is not run from files; accepted: ops of {dialect} that compute on dense tensors, and that neither "
        "reach files, processes or foreign memory, nor run code outside the graph"
    )


@cache
def _has_tensors(name: str) -> bool:
    """Return False for an overload without tensors: TorchScript's, which torch computes at once, on any numbers."""
    dialect, _, rest = name.partition(".")
    short, _, overload = rest.partition(".")
    if dialect == "hop":
        return True
    schemas = torch._C._jit_get_schemas_for_operator(f"{dialect}::{short}")
    return all(
        any("Tensor" in str(each.type) for each in (*schema.arguments, *schema.returns))
        for schema in schemas
        if schema.overload_name == ("" if overload == "default" else overload)
    )


def _functional(name: str) -> str:
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


_NAMESPACES = """
    _c10d_functional _c10d_functional_autograd _dtensor _inductor_debug _inductor_test _native _quantized _test
    _torch_testing ao aoti_custom_ops bucketing c10d c10d_functional cuda cudnn debug_mode_ops debugprims
    device_mesh export flex_lib fsdp higher_order inductor inductor_prims metal_prepack mkl mkldnn
    mkldnn_prepacked mkldnn_prims mtia nccl nvprims onednn onnx onnx_symbolic prepacked prim profiler quantization
    quantized rngprims semi_structured sparse static_runtime streams symm_mem torch_attn triton vulkan
    vulkan_prepack xpu
"""

_NAMES = {
    # In-place forms share the entry of the functional form.
    "aten": """
        __and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__
        _adaptive_avg_pool2d _adaptive_avg_pool3d _add_relu _addmm_activation _aminmax _assert_async _assert_scalar
        _assert_tensor_metadata _batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional
        _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short _cdist_forward
        _conj _conj_copy _conj_physical _convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu _convolution
        _convolution_mode _embedding_bag
        _embedding_bag_forward_only _euclidean_dist _fake_quantize_learnable_per_channel_affine
        _fake_quantize_learnable_per_tensor_affine _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fft_c2c
        _fft_c2r _fft_r2c _functional_assert_async _functional_assert_scalar _functional_sym_constrain_range
        _functional_sym_constrain_range_for_size _fused_rms_norm _grouped_mm _index_put_impl _int_mm _is_all_true
        _is_any_true _linalg_check_errors _linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet _linalg_solve_ex
        _linalg_svd _local_scalar_dense _log_softmax _logcumsumexp _masked_softmax _native_batch_norm_legit
        _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _neg_view _neg_view_copy
        _pack_padded_sequence _pad_circular _pad_enum _pdist_forward _prelu_kernel _reshape_copy
        _safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_cudnn_attention
        _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_fused_attention_overrideable _scaled_mm
        _shape_as_tensor _softmax _standard_gamma _to_copy _trilinear _unique _unique2 _unsafe_index
        _unsafe_index_put _unsafe_masked_index _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
        _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_int4pack_mm
        _weight_int4pack_mm_for_cpu _weight_int8pack_mm _weight_norm _weight_norm_interface abs absolute acos acosh
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid_generator alias alias_copy
        all allclose alpha_dropout amax amin aminmax angle any arange arccos arccosh arcsin arcsinh arctan arctan2
        arctanh argmax argmin argsort argwhere as_strided as_strided_copy as_strided_scatter asin asinh atan atan2
        atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm bartlett_window batch_norm
        bernoulli bilinear binary_cross_entropy binary_cross_entropy_with_logits bincount binomial bitwise_and
        bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor blackman_window block_diag bmm
        broadcast_tensors broadcast_to bucketize can_cast cartesian_prod cat cauchy cdist ceil celu chain_matmul chalf
        channel_shuffle cholesky cholesky_inverse cholesky_solve chunk clamp clamp_max clamp_min clip clone col2im
        column_stack combinations complex concat concatenate conj conj_physical constant_pad_nd contiguous conv1d
        conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution copy copysign corrcoef
        cos cosh cosine_embedding_loss cosine_similarity count_nonzero cov cross cross_entropy_loss cudnn_batch_norm
        cummax cummin cumprod cumsum cumulative_trapezoid deg2rad det detach detach_copy diag diag_embed diagflat
        diagonal diagonal_copy diagonal_scatter diff digamma dim dist div divide dot dropout dsplit dstack einsum elu
        embedding embedding_bag embedding_renorm empty empty_like empty_permuted empty_strided eq equal erf erfc
        erfinv exp exp2 expand expand_as expand_copy expm1 exponential eye fake_quantize_per_channel_affine
        fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine
        fake_quantize_per_tensor_affine_cachemask feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftfreq
        fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft
        fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill
        fill_diagonal fix flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod frac frexp
        frobenius_norm full full_like gather gcd ge gelu geometric geqrf ger get_device glu gradient greater
        greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hamming_window
        hann_window hardshrink hardsigmoid hardswish hardtanh heaviside hinge_embedding_loss histc histogram
        histogramdd hsplit hstack huber_loss hypot i0 igamma igammac im2col imag index index_add index_copy index_fill
        index_put index_reduce index_select inner instance_norm inverse is_complex is_conj is_contiguous
        is_floating_point is_neg is_nonzero is_same_size is_signed isclose isfinite isin isinf isnan isneginf isposinf
        isreal istft item kaiser_window kl_div kron kthvalue l1_loss layer_norm lcm ldexp le leaky_relu lerp less
        less_equal lgamma lift lift_fresh lift_fresh_copy linalg__powsum linalg_cholesky linalg_cholesky_ex
        linalg_cond linalg_cross linalg_det linalg_diagonal linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh
        linalg_householder_product linalg_inv linalg_inv_ex linalg_ldl_factor linalg_ldl_factor_ex linalg_ldl_solve
        linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_lu_solve linalg_matmul linalg_matrix_exp
        linalg_matrix_norm linalg_matrix_power linalg_matrix_rank linalg_multi_dot linalg_norm linalg_pinv linalg_qr
        linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv
        linalg_tensorsolve linalg_vander linalg_vecdot linalg_vector_norm linear linspace log log10 log1p log2
        log_normal log_sigmoid log_sigmoid_forward log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and
        logical_not logical_or logical_xor logit logspace logsumexp lstm lstm_cell lt lu_solve lu_unpack mH mT
        margin_ranking_loss masked_fill masked_scatter masked_select matmul matrix_H matrix_exp matrix_power max
        max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
        max_unpool2d max_unpool3d maximum mean median meshgrid min minimum miopen_batch_norm mish mm mode moveaxis
        movedim mse_loss msort mul multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward multinomial
        multiply mv mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow narrow_copy native_batch_norm
        native_channel_shuffle native_dropout native_group_norm native_layer_norm ne neg negative new_empty
        new_empty_strided new_full new_ones new_zeros nextafter nll_loss nll_loss2d nll_loss2d_forward
        nll_loss_forward nll_loss_nd nonzero nonzero_static norm norm_except_dim normal normal_functional not_equal
        nuclear_norm numel numpy_T one_hot ones ones_like orgqr ormqr outer pad pad_sequence pairwise_distance pdist
        permute permute_copy pinverse pixel_shuffle pixel_unshuffle poisson poisson_nll_loss polar polygamma positive
        pow prelu prod promote_types put qr quantile rad2deg rand rand_like randint randint_like randn randn_like
        random randperm range ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6
        remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape
        reshape_as resolve_conj resolve_neg result_type rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll
        rot90 round row_stack rrelu rrelu_with_noise rrelu_with_noise_functional rsqrt rsub scalar_tensor
        scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_copy select_scatter
        selu sgn sigmoid sign signbit silu sin sinc sinh size slice slice_copy slice_inverse slice_scatter slogdet
        slow_conv3d slow_conv_dilated2d slow_conv_dilated3d slow_conv_transpose2d slow_conv_transpose3d smooth_l1_loss
        soft_margin_loss softmax softplus softshrink sort special_airy_ai special_bessel_j0 special_bessel_j1
        special_bessel_y0 special_bessel_y1 special_chebyshev_polynomial_t special_chebyshev_polynomial_u
        special_chebyshev_polynomial_v special_chebyshev_polynomial_w special_digamma special_entr special_erf
        special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1 special_gammainc
        special_gammaincc special_gammaln special_hermite_polynomial_h special_hermite_polynomial_he special_i0
        special_i0e special_i1 special_i1e special_laguerre_polynomial_l special_legendre_polynomial_p special_log1p
        special_log_ndtr special_log_softmax special_logit special_logsumexp special_modified_bessel_i0
        special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_multigammaln
        special_ndtr special_ndtri special_polygamma special_psi special_round special_scaled_modified_bessel_k0
        special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t
        special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v
        special_shifted_chebyshev_polynomial_w special_sinc special_softmax special_spherical_bessel_j0
        special_xlog1py special_xlogy special_zeta split split_copy split_with_sizes split_with_sizes_copy sqrt square
        squeeze squeeze_copy stack std std_mean stft storage_offset stride sub subtract sum sum_to_size svd swapaxes
        swapdims sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size
        sym_storage_offset sym_stride t t_copy take take_along_dim tan tanh tensor_split tensordot threshold tile to
        topk trace transpose transpose_copy trapezoid trapz triangular_solve tril tril_indices triplet_margin_loss
        triu triu_indices true_divide trunc type_as unbind unbind_copy unflatten unfold unfold_copy uniform
        unique_consecutive unique_dim unique_dim_consecutive unsafe_chunk unsafe_split unsafe_split_with_sizes
        unsqueeze unsqueeze_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
        upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var var_mean vdot view view_as
        view_as_complex view_as_complex_copy view_as_real view_as_real_copy view_copy vsplit vstack where xlogy zero
        zeros zeros_like
    """,
    "prims": """
        abs acos acosh add amax amin as_strided as_strided_scatter asin asinh atan atan2 atanh bessel_i0 bessel_i0e
        bessel_i1 bessel_i1e bessel_j0 bessel_j1 bitwise_and bitwise_not bitwise_or bitwise_xor broadcast_in_dim cat
        cbrt ceil clone collapse collapse_view conj conj_physical convert_element_type copy_strided copy_to cos cosh
        device_put digamma div empty empty_permuted empty_strided eq erf erf_inv erfc erfcx exp exp2 expm1 fft_c2c
        fft_c2r fft_r2c fill floor fmax fmin fmod frexp full full_like gcd ge gt hypot igamma igammac imag iota
        isfinite item le lgamma log log10 log1p log2 lt maximum maximum_value minimum minimum_value mul ndtri ne neg
        nextafter normal pow prod real reciprocal remainder reshape rev round rsqrt scalar_tensor shift_left
        shift_right_arithmetic sign signbit sin sinh spherical_bessel_j0 split_dim sqrt squeeze sub sum svd tan tanh
        transpose trunc uniform var view_of view_of_dtype where xor_sum zeta
    """,
    "hop": """
        associative_scan auto_functionalized auto_functionalized_v2 cond flex_attention foreach_map hints_wrapper
        invoke_quant invoke_quant_packed invoke_subgraph map map_impl out_dtype scan strict_mode
        tag_activation_checkpoint while_loop while_loop_stack_output wrap wrap_activation_checkpoint
        wrap_with_autocast wrap_with_set_grad_enabled
    """,
}

_OF_NUMBERS = frozenset(
    {
        "_assert_scalar",
        "_functional_assert_scalar",
        "_functional_sym_constrain_range",
        "_functional_sym_constrain_range_for_size",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)
_OF_TORCH = frozenset(_NAMESPACES.split())
_ACCEPTED = {dialect: frozenset(names.split()) for dialect, names in _NAMES.items()}
