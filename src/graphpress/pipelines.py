"""The standard pipelines, as values that can be printed, split and extended with other passes."""

from __future__ import annotations

from collections.abc import Mapping

from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.coreai.raising import RaiseFromCoreai
from graphpress.backends.coreml.metadata_form import LowerToCoremlMetadata
from graphpress.backends.registry import Backend, lookup_backend
from graphpress.export_backend import ExportBackend, ExportBackendError
from graphpress.passes.analysis.facts import QUANTIZERS_INSERTED
from graphpress.passes.annotate_fusion import AnnotateFusion
from graphpress.passes.assign_quantizers import AssignQuantizers
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.config import BiasCorrection, KMeansPalettizerConfig, MagnitudePrunerConfig, QuantizerConfig
from graphpress.passes.convert_fake_quant import ConvertFakeQuant
from graphpress.passes.correct_bias import CorrectBias
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.dedup_fake_quant import DedupFakeQuant
from graphpress.passes.equalize_layers import EqualizeLayers
from graphpress.passes.fold_batch_norm import FoldBatchNorm
from graphpress.passes.fold_constants import FoldConstants
from graphpress.passes.fold_norm_weights import FoldNormWeights
from graphpress.passes.framework import Pass, Pipeline
from graphpress.passes.insert_fake_quant import InsertFakeQuant
from graphpress.passes.remove_dropout import RemoveDropout
from graphpress.passes.rotate_residual import RotateResidual
from graphpress.passes.share_quantizers import ShareQuantizers
from graphpress.passes.smooth_layers import SmoothLayers
from graphpress.passes.spell_out_batch_norm import SpellOutBatchNorm
from graphpress.passes.store_caches import StoreCaches
from graphpress.passes.store_dense import StoreDense

_FORMS: dict[ExportBackend, type[Pass]] = {
    ExportBackend.CoreAI: LowerToCoreai,
    ExportBackend.CoreML: LowerToCoremlMetadata,
    ExportBackend.Torch: StoreDense,
}
# Ambiguous: `ExportBackend.of` takes it as the metadata form, a reader may mean the backend `coreml`.
_AMBIGUOUS = frozenset({"coreml", "mil"})


def prepare(
    config: QuantizerConfig | None = None,
    *,
    leave_indivisible: bool | None = None,
    silent_modules: Mapping[str, str] | None = None,
) -> Pipeline:
    """Build the pipeline that inserts fake-quantizers into a captured graph, as the config requests.

    The options are those of `AssignQuantizers`.
    """
    config = config or QuantizerConfig()
    return Pipeline(
        RaiseFromCoreai(),
        Canonicalize(keep_dropout=True),
        FoldBatchNorm(),
        *((EqualizeLayers(),) if config.equalize_layers else ()),
        *((FoldNormWeights(), RotateResidual()) if config.rotate_residual else ()),
        *((SmoothLayers(config.smooth_layers),) if config.smooth_layers is not None else ()),
        AnnotateFusion(),
        AssignQuantizers(config, leave_indivisible=leave_indivisible, silent_modules=silent_modules or {}),
        ShareQuantizers(),
        InsertFakeQuant(),
        DedupFakeQuant(),
        *((CorrectBias(),) if config.bias_correction is not BiasCorrection.NONE else ()),
        Dce(),
    )


def finalize(backend: ExportBackend | Backend | str = ExportBackend.CoreAI) -> Pipeline:
    """Build the pipeline that lowers a prepared graph, with the parameters of its fake-quantizers, to a backend's ops.

    Arguments and errors are those of `lowering`.
    """
    has_codes = backend is not ExportBackend.Torch
    return Pipeline(
        FoldConstants(),
        RemoveDropout(),
        *((ConvertFakeQuant(), StoreCaches()) if has_codes else ()),
        SpellOutBatchNorm(),
        Cse(),
        Dce(),
        *lowering(backend),
        *(() if has_codes else (FoldConstants(), Dce())),
        assume=[QUANTIZERS_INSERTED],
    )


def lowering(backend: ExportBackend | Backend | str) -> tuple[Pass, ...]:
    """Return the passes that lower compressed values to the ops of `backend`.

    Args:
        backend: a form of finalized models, `ExportBackend.CoreAI` for the program that both backends convert,
            `ExportBackend.CoreML` for the metadata form, or `ExportBackend.Torch` for dense weights; or a registered
            backend or its name. The name ``"coreml"`` is rejected as ambiguous: it could mean the metadata form or the
            backend, which converts the program.

    Raises:
        ExportBackendError: if `backend` is none of these, or ambiguous.
        UnknownBackendError: if there is no backend of that name.
    """
    if isinstance(backend, ExportBackend):
        return (_FORMS[backend](),)
    if isinstance(backend, Backend) and not isinstance(backend, type):
        return tuple(backend.lowering())
    if not isinstance(backend, str):
        raise ExportBackendError(
            f"{backend!r} is not a backend; accepted: ExportBackend.CoreAI, ExportBackend.CoreML, "
            "a registered backend, or its name"
        )
    if backend.lower() in _AMBIGUOUS:
        raise ExportBackendError(
            f"{backend!r} names two forms: ExportBackend.CoreML is the metadata form, which coremltools reads from a "
            "torch model; lookup_backend('coreml') is the backend, which converts the program of "
            "ExportBackend.CoreAI to an .mlpackage. Pass one of them instead of the name"
        )
    return tuple(lookup_backend(backend).lowering())


def palettize(config: KMeansPalettizerConfig | None = None, seed: int = 0) -> Pipeline:
    """Build the graph pipeline that palettizes weights, after folding batch norms."""
    from graphpress.passes.palettize_weights import PalettizeWeights

    return _of_weights(PalettizeWeights(config or KMeansPalettizerConfig(), seed=seed))


def quantize_weights(config: QuantizerConfig | None = None) -> Pipeline:
    """Build the graph pipeline that quantizes weights without data, after folding batch norms."""
    from graphpress.passes.quantize_weights import QuantizeWeights

    return _of_weights(QuantizeWeights(config or QuantizerConfig()))


def prune(config: MagnitudePrunerConfig | None = None) -> Pipeline:
    """Build the graph pipeline that prunes weights by magnitude, after folding batch norms."""
    from graphpress.passes.prune_weights import PruneWeights

    return _of_weights(PruneWeights(config or MagnitudePrunerConfig()))


def _of_weights(compression: Pass) -> Pipeline:
    """Build the pipeline of `compression` after folding batch norms into weights."""
    return Pipeline(RaiseFromCoreai(), Canonicalize(), FoldBatchNorm(), FoldConstants(), compression, Dce())


def joint(palettization: KMeansPalettizerConfig | None, quantization: QuantizerConfig | None) -> Pipeline:
    """Build the pipeline that palettizes weights, then inserts fake-quantizers at activations."""
    return palettize(palettization) + Pipeline(
        AnnotateFusion(),
        AssignQuantizers(quantization or QuantizerConfig()),
        ShareQuantizers(),
        InsertFakeQuant(),
        DedupFakeQuant(),
        Dce(),
        assume=palettize(palettization).gives,
    )
