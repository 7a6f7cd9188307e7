"""Convolution and BatchNorm as one convolution, for inference."""

from __future__ import annotations

import copy

from spikingjelly.activation_based import layer
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from gac_sj.models import MSBlock
from gac_sj.nn.sync_batchnorm import SyncBatchNorm

__all__ = ["fold_batch_norm"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# those that scale by running statistics and nothing else; SpikingJelly has others that are their subclasses
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, layer.BatchNorm1d, layer.BatchNorm2d, layer.BatchNorm3d)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy for inference whose BatchNorms are folded into the convolutions in front of them.

    It computes the same up to rounding, which a spike near the threshold can see. Folded are neighbours inside an
    ``nn.Sequential`` (as in stems and shortcuts) and the two pairs of an :class:`gac_sj.models.MSBlock`; a BatchNorm
    that follows no convolution stays.

    Args:
        model: a network of this package, or one built of ``nn.Sequential``.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ValueError: there is nothing to fold.
    """
    folded = copy.deepcopy(model).eval()
    count = 0
    for module in list(folded.modules()):
        if isinstance(module, MSBlock):
            count += _fold(module, "conv1", "bn1") + _fold(module, "conv2", "bn2")
        elif isinstance(module, nn.Sequential):
            before = None
            for name, child in list(module.named_children()):
                if before is not None:
                    count += _fold(module, before, name)
                if isinstance(child, _CONVOLUTIONS):
                    before = name
                elif not _commutes(child):
                    before = None
    if not count:
        raise ValueError(
            f"{type(model).__name__} has no BatchNorm that directly follows a convolution, so there is nothing to "
            "fold; give a network of gac_sj, or one whose layers stand in an nn.Sequential."
        )
    return folded


def _commutes(module: nn.Module) -> bool:
    """Whether scale and shift may as well come before it: a mean of pixels."""
    if isinstance(module, nn.AvgPool2d):
        return module.padding in (0, (0, 0)) and module.divisor_override is None
    return isinstance(module, nn.Identity)


def _fold(parent: nn.Module, convolution: str, norm: str) -> bool:
    conv, bn = getattr(parent, convolution), getattr(parent, norm)
    if type(bn) not in (*_NORMS, SyncBatchNorm) or bn.running_var is None:
        return False  # folded before, another norm, or one of the batch at hand
    if is_parametrized(conv) or any(name.startswith("weight_") for name, _ in conv.named_parameters()):
        return False  # its weight is computed at every call
    setattr(parent, convolution, fuse_conv_bn_eval(conv, bn))
    setattr(parent, norm, nn.Identity())
    return True
