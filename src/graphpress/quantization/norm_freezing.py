"""Batch norms that can be told to train with the statistics they have."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_FROZEN = "_norm_is_frozen"  # in `__dict__`, so that copies and pickles of the module carry it


class FreezableNorm(nn.Module):
    """Base of the modules that stand for a batch norm of the user's model in a prepared graph.

    Attributes:
        module_paths: the modules of the user's model that it stands for.
    """

    module_paths: tuple[str, ...] = ()

    @property
    def norm_is_frozen(self) -> bool:
        """True when training uses the running statistics and leaves them as they are."""
        return self.__dict__.get(_FROZEN, False)

    def freeze_norm(self, frozen: bool = True) -> None:
        """Let training use the running statistics (and leave them), or the batch's."""
        self.__dict__[_FROZEN] = frozen

    @property
    def uses_batch_statistics(self) -> bool:
        """True when it normalizes by the statistics of the batch, and updates the running ones."""
        return self.training and not self.norm_is_frozen


Norm = FreezableNorm | _BatchNorm


def norms_of(module: nn.Module) -> list[Norm]:
    """The batch norms in `module`: those of a prepared graph, and torch's own."""
    return [m for m in module.modules() if isinstance(m, FreezableNorm | _BatchNorm)]


def set_frozen(norm: Norm, frozen: bool, training: bool) -> None:
    """Freeze `norm`, or let it learn again if the model is in training mode (`training`)."""
    if isinstance(norm, FreezableNorm):
        norm.freeze_norm(frozen)
    else:
        norm.__dict__[_FROZEN] = frozen
        norm.train(training and not frozen)


def keep_frozen(module: nn.Module) -> None:
    """Put frozen norms of torch's own back into evaluation mode, which `module.train()` has taken them out of."""
    for norm in norms_of(module):
        if isinstance(norm, _BatchNorm) and norm.__dict__.get(_FROZEN, False):
            norm.eval()
