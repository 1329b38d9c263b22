"""torchao integration: fusion and sharing analysis for `prepare_pt2e` and `convert_pt2e`."""

from graphpress.backends.torchao.quantizer import GraphpressQuantizer
from graphpress.backends.torchao.specs import MissingDependencyError, TorchaoError

__all__ = ["GraphpressQuantizer", "MissingDependencyError", "TorchaoError"]
