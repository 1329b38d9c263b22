"""torchao integration: fusion and sharing analysis for `prepare_pt2e` and `convert_pt2e`."""

from graphpress.backends.errors import MissingDependencyError

try:
    import torchao.quantization.pt2e  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        f"the torchao backend needs torchao, which cannot be imported ({error}); "
        "install it with: pip install 'graphpress[torchao]'"
    ) from error

from graphpress.backends.errors import MissingDependencyError

try:
    import torchao as _torchao  # noqa: F401  # which every module of this package imports
except ImportError as error:
    raise MissingDependencyError(
        f"the torchao backend needs 'torchao', which cannot be imported ({error}); "
        "install it with: pip install 'graphpress[torchao]'"
    ) from error

from graphpress.backends.torchao.quantizer import GraphpressQuantizer
from graphpress.backends.torchao.specs import TorchaoError

__all__ = ["GraphpressQuantizer", "MissingDependencyError", "TorchaoError"]
